"""`altgrad report`: what the logs of runs and sweeps say, for the terminal, as Markdown, as one web page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from altgrad_cli.commands.console import data_console, print_json, say
from altgrad_cli.commands.failures import FAILED, OK
from altgrad_cli.errors import UsageError
from altgrad_cli.files import check_outputs

SCHEMA = "altgrad.report/1"
VERIFY_SCHEMA = "altgrad.report-verification/1"
SHOWN_DIFFERENCES = 50

EXAMPLES = (
    "altgrad report",
    "altgrad report runs/e7m0_uniform",
    "altgrad report sweeps/eurlex --html eurlex.html",
    "altgrad report sweeps/eurlex --markdown reports/eurlex.md",
    'altgrad report sweeps/eurlex --section verdicts --section "loss gap"',
    "altgrad report --verify reports/eurlex.md",
    "altgrad report runs/moved-elsewhere --verify reports/eurlex.md",
)


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN or SWEEP]...", help="Folders to report on (default: the newest)."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write Markdown; pictures and long tables (CSV) in a folder beside it."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one web page that opens offline.")
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recompute every number of a Markdown report from the logs."),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE", help="Only sections whose titles begin so; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")] = False,
) -> int:
    """Report on runs and sweeps, from their logs alone.

    One run gets its (failure) report; a sweep, or several runs, a comparison. Every number carries the run,
    metric, steps and layer it comes from, so that --verify can compute it again; it exits 1 if any differs.
    """
    if verify is not None:
        if markdown or html:
            raise UsageError("--verify reads a report, it writes none", where="--verify")
        return _verify(verify, folders or [], as_json=json)
    check_outputs(("--markdown", markdown), ("--html", html), force=force)
    from altgrad_cli.reporting.report import build_report
    from altgrad_cli.sweeps.listing import newest

    chosen = folders or [newest(Path.cwd())]
    built = build_report(chosen).only(section or [])
    written: list[Path] = []
    if markdown is not None:
        from altgrad_cli.reporting.render.markdown import paths_beside, write_markdown

        beside = paths_beside(built, markdown)
        check_outputs(("--html", html), *(("--markdown", path) for path in beside), force=force)
        written += write_markdown(built, markdown)
    if html is not None:
        from altgrad_cli.reporting.render.html import write_html

        write_html(built, html)
        written.append(html)
    if json:
        from altgrad_cli.reporting.render.json import to_json

        print_json(SCHEMA, {**to_json(built), "written": [str(path) for path in written]})
    elif written:
        for path in written:
            say(f"wrote {path}")
    else:
        from altgrad_cli.reporting.render.terminal import renderables

        console = data_console()
        for item in renderables(built):
            console.print(item)
    return OK


def _verify(path: Path, folders: list[Path], *, as_json: bool) -> int:
    from altgrad_cli.reporting.verify import verify

    result = verify(path, folders)
    if as_json:
        print_json(VERIFY_SCHEMA, {"report": str(path), **asdict(result)})
        return FAILED if result.differences else OK
    console = data_console()
    for item in result.differences[:SHOWN_DIFFERENCES]:
        console.print(Text(f"{path}: {item}"), soft_wrap=True)
    left = len(result.differences) - SHOWN_DIFFERENCES
    if left > 0:
        console.print(Text(f"... and {left} more"))
    said = f"{len(result.differences)} differ" if result.differences else "all agree with the logs"
    console.print(Text(f"{path}: {result.checked} values recomputed, {said}"), soft_wrap=True)
    return FAILED if result.differences else OK


def write_run_report(run_dir: Path) -> Path:
    """Write ``report.md`` (with plots that hold the run against its controls, where it lies in a sweep)."""
    from altgrad_cli.reporting.render.markdown import write_markdown
    from altgrad_cli.reporting.report import build_report

    path = run_dir / "report.md"
    write_markdown(build_report([run_dir]), path)
    return path
