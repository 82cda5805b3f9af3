"""`altgrad claims`: what the field has published and a laptop can test, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altgrad_cli.commands.console import data_console, print_json, say, talk_console
from altgrad_cli.files import check_outputs

if TYPE_CHECKING:
    from altgrad_cli.reporting.blocks.document import Report

SCHEMA = "altgrad.claims/1"
LIST_SCHEMA = "altgrad.claims-list/1"

EXAMPLES = (
    "altgrad claims --list",
    "altgrad claims accumulate log-bias",
    "altgrad claims bf16-weights --json",
    "altgrad claims --markdown claims.md",
)


def claims(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", show_default=False, help="The claims to test (default: all)."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Say what each claim is, and measure nothing.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a report in Markdown.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document on stdout.")] = False,
) -> None:
    """Test published claims about number formats on small runs, each against its source.

    A claim agrees, disagrees, or cannot be told, by bounds that were set before measuring. All of them take
    minutes, on one core; nothing is written but the report that is asked for.
    """
    from altgrad_cli.claims.bench import Bench
    from altgrad_cli.claims.every import chosen_claims
    from altgrad_cli.claims.measured import measure_claims
    from altgrad_cli.reporting.pages.measured_claims import claims_report, list_of_claims

    check_outputs(("--markdown", markdown), force=force)
    chosen = chosen_claims(names or [])
    if listed and json:
        rows = [{"name": each.name, "claim": each.sentence, "source": each.source} for each in chosen]
        print_json(LIST_SCHEMA, {"claims": rows})
        return
    if listed:
        _print(list_of_claims(chosen))
        return
    measured = []
    with talk_console().status("") as status:
        for each in measure_claims(chosen, Bench(listen=status.update)):
            measured.append(each)
            say(f"{each.judgement.verdict:<11}  {each.claim.name} ({each.measurement.scope})")
    page = claims_report(measured)
    if markdown is not None:
        from altgrad_cli.reporting.render.markdown import write_markdown

        write_markdown(page, markdown)
        say(f"wrote {markdown}")
    if json:
        print_json(SCHEMA, {"claims": [each.to_json() for each in measured]})
    elif markdown is None:
        _print(page)


def _print(page: Report) -> None:
    from altgrad_cli.reporting.render.terminal import renderables

    console = data_console()
    for item in renderables(page):
        console.print(item)
