"""From folders to a report: a comparison of runs, or the failure report of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from altgrad_cli.reporting.blocks.document import Report
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.pages.comparison.answer import opening
from altgrad_cli.reporting.pages.comparison.sections import comparison_sections
from altgrad_cli.reporting.pages.run.failure_sections import failure_sections
from altgrad_cli.reporting.pages.run.run_opening import run_opening
from altgrad_cli.reporting.render.markdown import write_markdown
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.results import is_sweep

FAILURE_REPORT = "failure_report.md"


def build_report(paths: Sequence[Path]) -> Report:
    """The report on the runs and sweeps in ``paths``, computed from their events.

    Raises:
        UsageError: a path holds neither, or a log is damaged.
    """
    return report_on(gather(paths))


def report_on(scope: Scope) -> Report:
    """The report on what was gathered."""
    if scope.focus is not None:
        return _run_report(scope, scope.focus)
    names = [Path(path).resolve().name for path in scope.logs]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and others"
    return Report(f"Formats compared: {shown}", comparison_sections(scope), scope.logs, opening(scope))


def _run_report(scope: Scope, log: RunRecord) -> Report:
    """The report of one run; a failure report where it failed."""
    kind = "Failure report" if scope.fell_short(log) else "Run report"
    return Report(f"{kind}: {log.name}", failure_sections(scope, log), scope.logs, run_opening(scope, log))


def write_failure_report(run_dir: Path, *, sweep_dir: Path | None = None, pictures: bool = True) -> Path:
    """Write ``failure_report.md`` (and its pictures, in a folder beside it) into ``run_dir``; its path.

    Args:
        run_dir: folder of a run, whole or not: a report never invents a failure, only the title says one.
        sweep_dir: the sweep whose controls count, where the run's folder does not lie in it.
        pictures: whether to draw.

    Raises:
        UsageError: there is no log, or it is damaged.
    """
    inside = sweep_dir is None or run_dir.resolve().parent == sweep_dir.resolve()
    scope = gather([run_dir] if inside or sweep_dir is None else [sweep_dir, run_dir])
    log = scope.focus or scope.evidence.run(run_dir.resolve().name)
    logs = run_dir.resolve().parent if is_sweep(run_dir.resolve().parent) else run_dir
    path = run_dir / FAILURE_REPORT
    write_markdown(_run_report(replace(scope, logs=(str(logs),)), log), path, pictures=pictures)
    return path
