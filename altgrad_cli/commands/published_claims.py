"""`altgrad claims`: what the field has published and a laptop can test, measured here."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altgrad_cli.commands.console import data_console, print_json, say, talk_console
from altgrad_cli.commands.failures import FAILED, INTERRUPTED, OK
from altgrad_cli.commands.sweep import available_cores
from altgrad_cli.files import check_outputs, is_regular

if TYPE_CHECKING:
    from altgrad_cli.claims.claim import Claim
    from altgrad_cli.claims.making import Made
    from altgrad_cli.claims.measured import MeasuredClaim
    from altgrad_cli.reporting.blocks.document import Report

SCHEMA = "altgrad.claims/2"
LIST_SCHEMA = "altgrad.claims-list/1"

EXAMPLES = (
    "altgrad claims --list",
    "altgrad claims accumulate log-bias",
    "altgrad claims bf16-weights --json",
    "altgrad claims --jobs 2",
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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, one process each (default: all cores).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document on stdout.")] = False,
) -> int:
    """Test published claims about number formats on small runs, each against its source.

    A claim agrees, disagrees, or cannot be told, by bounds that were set before measuring. All of them take
    minutes. The report that is asked for is written anew after each verdict; nothing else is kept.
    """
    from altgrad_cli.claims.every import chosen_claims
    from altgrad_cli.reporting.pages.measured_claims import FIGURE, claims_report, list_of_claims
    from altgrad_cli.reporting.render.markdown import folder_beside
    from altgrad_cli.training.parallel.launch import refuse_ranks

    refuse_ranks("a test of claims", "leave torchrun out: --jobs N has N runs at a time")
    check_outputs(("--markdown", markdown), force=force)
    if markdown is not None and is_regular(markdown):
        check_outputs(("--markdown", folder_beside(markdown) / f"{FIGURE}.png"), force=force)
    chosen = chosen_claims(names or [])
    if listed and json:
        rows = [{"name": each.name, "claim": each.sentence, "source": each.source} for each in chosen]
        print_json(LIST_SCHEMA, {"claims": rows})
        return OK
    if listed:
        _print(list_of_claims(chosen))
        return OK
    outcome = _measure(chosen, jobs or available_cores(), markdown)
    left = [each for each in chosen if each.name not in outcome.names]
    page = claims_report(outcome.measured, left)
    if markdown is not None:
        _write(page, markdown)
        say(f"wrote {markdown}")
    if json:
        whole = sorted(outcome.measured, key=lambda each: chosen.index(each.claim))
        rest = [{"name": each.name, "why": outcome.missing.get(each.name)} for each in left]
        print_json(SCHEMA, {"claims": [each.to_json() for each in whole], "not_measured": rest})
    elif markdown is None and outcome.measured:
        _print(page)
    for name, why in outcome.missing.items():
        say(f"error: {name}: {why}")
    if outcome.interrupted:
        say(f"interrupted; not measured: {', '.join(each.name for each in left)}")
        return INTERRUPTED
    return FAILED if outcome.missing else OK


@dataclass(slots=True)
class _Outcome:
    """What came of measuring."""

    measured: list[MeasuredClaim] = field(default_factory=list)
    """In the order in which they came."""
    missing: dict[str, str] = field(default_factory=dict)
    """Claims of which a run failed, and why."""
    interrupted: bool = False

    @property
    def names(self) -> set[str]:
        """Of what was measured."""
        return {each.claim.name for each in self.measured}


def _measure(chosen: Sequence[Claim], jobs: int, markdown: Path | None) -> _Outcome:
    """Measure ``chosen`` with ``jobs`` runs at a time; says each verdict, and keeps the report up to date."""
    from altgrad_cli.claims.bench import SEEDS
    from altgrad_cli.claims.making import make_runs, wanted_runs
    from altgrad_cli.claims.measured import Unmeasured, measure_claims
    from altgrad_cli.reporting.pages.measured_claims import claims_report
    from altgrad_cli.runs.signals import STOP_INTERRUPTS, handled
    from altgrad_cli.sweeps.executors.local import LocalExecutor

    outcome = _Outcome()
    wanted = wanted_runs(chosen, SEEDS)
    with contextlib.suppress(KeyboardInterrupt):
        outcome.interrupted = True
        with (
            talk_console().status("") as status,
            tempfile.TemporaryDirectory(prefix="altgrad-claims-") as folder,
            handled(STOP_INTERRUPTS),
            contextlib.closing(LocalExecutor(jobs)) as executor,
        ):
            made = _counted(make_runs(wanted, Path(folder), executor), len(wanted), status.update)
            for each in measure_claims(chosen, made, SEEDS):
                if isinstance(each, Unmeasured):
                    outcome.missing[each.claim.name] = each.why
                    continue
                outcome.measured.append(each)
                say(f"{each.judgement.verdict:<11}  {each.claim.name} ({each.measurement.scope})")
                if markdown is not None and is_regular(markdown):
                    left = [claim for claim in chosen if claim.name not in outcome.names]
                    _write(claims_report(outcome.measured, left), markdown)
        outcome.interrupted = False
    return outcome


def _counted(made: Iterable[Made], total: int, show: Callable[[str], object]) -> Iterator[Made]:
    """``made``, while the terminal is told how far it is."""
    show(f"0 of {total} runs")
    for number, each in enumerate(made, start=1):
        show(f"{number} of {total} runs")
        yield each


def _write(page: Report, path: Path) -> None:
    from altgrad_cli.reporting.render.markdown import write_markdown

    write_markdown(page, path)


def _print(page: Report) -> None:
    from altgrad_cli.reporting.render.terminal import renderables

    console = data_console()
    for item in renderables(page):
        console.print(item)
