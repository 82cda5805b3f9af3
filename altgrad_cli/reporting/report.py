"""From folders to a report: a comparison of runs, or the failure report of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from altgrad_cli.reporting.blocks.document import Report
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.pages.comparison.sections import comparison_sections
from altgrad_cli.reporting.pages.run.failure_sections import failure_sections
from altgrad_cli.runs.record import RunRecord


def build_report(paths: Sequence[Path]) -> Report:
    """The report on the runs and sweeps in ``paths``, computed from their events.

    Raises:
        UsageError: a path holds neither, or a log is damaged.
    """
    return report_on(gather(paths))


def report_on(scope: Scope) -> Report:
    """The report on what was gathered."""
    if scope.focus is not None:
        return run_report(scope, scope.focus, scope.logs)
    names = [Path(path).resolve().name for path in scope.logs]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and others"
    return Report(f"Formats compared: {shown}", comparison_sections(scope), scope.logs)


def run_report(scope: Scope, log: RunRecord, logs: tuple[str, ...]) -> Report:
    """The report of one run; a failure report where it failed."""
    kind = "Failure report" if scope.fell_short(log) else "Run report"
    return Report(f"{kind}: {log.name}", failure_sections(scope, log), logs)
