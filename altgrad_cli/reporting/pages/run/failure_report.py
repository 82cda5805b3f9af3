"""The failure report that lies in a run's folder."""

from __future__ import annotations

from pathlib import Path

from altgrad_cli.reporting.evidence.scope import gather
from altgrad_cli.reporting.render.markdown import write_markdown
from altgrad_cli.reporting.report import run_report
from altgrad_cli.sweeps.results import is_sweep

NAME = "failure_report.md"


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
    path = run_dir / NAME
    write_markdown(run_report(scope, log, (str(logs),)), path, pictures=pictures)
    return path
