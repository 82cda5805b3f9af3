"""From folders to a report: a comparison of runs, or the failure report of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from altgrad_cli.reporting.document import Report
from altgrad_cli.reporting.failure_sections import failure_sections
from altgrad_cli.reporting.notation import format_value
from altgrad_cli.reporting.scope import Scope, gather
from altgrad_cli.reporting.sections import comparison_sections


def build_report(paths: Sequence[Path]) -> Report:
    """The report on the runs and sweeps in ``paths``, computed from their events.

    Raises:
        UsageError: a path holds neither, or a log is damaged.
    """
    return report_on(gather(paths))


def report_on(scope: Scope) -> Report:
    """The report on what was gathered."""
    if scope.focus is not None:
        log = scope.focus
        kind = "Failure report" if scope.fell_short(log) else "Run report"
        return Report(f"{kind}: {log.name}", failure_sections(scope, log), scope.logs)
    names = ", ".join(Path(path).resolve().name for path in scope.logs)
    return Report(f"Formats compared: {names}", comparison_sections(scope), scope.logs)


def write_failure_report(run_dir: Path, *, sweep_dir: Path | None = None, pictures: bool = True) -> Path:
    """Write ``failure_report.md`` (and its pictures) into ``run_dir``; the path of the Markdown.

    Controls are those of the sweep that the run lies in. ``sweep_dir`` names that sweep where the run's
    folder is elsewhere.
    """
    from altgrad_cli.reporting.markdown import write_markdown

    paths = (
        [run_dir]
        if sweep_dir is None or run_dir.resolve().parent == sweep_dir.resolve()
        else [sweep_dir, run_dir]
    )
    scope = gather(paths)
    log = scope.focus or scope.evidence.run(run_dir.resolve().name)
    kind = "Failure report" if scope.fell_short(log) else "Run report"
    # The report lies in the run's folder: the logs are named as seen from there, so that the folder may be moved.
    report = Report(
        f"{kind}: {format_value(log.name)}", failure_sections(scope, log), ("..",) if scope.notes else (".",)
    )
    path = run_dir / "failure_report.md"
    write_markdown(report, path, pictures=pictures)
    return path
