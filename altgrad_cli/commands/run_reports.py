"""The report that is left in a run's folder when it ends."""

from __future__ import annotations

from pathlib import Path


def write_run_report(run_dir: Path) -> Path:
    """Write ``report.md`` (with plots that hold the run against its controls, where it lies in a sweep)."""
    from altgrad_cli.reporting.render.markdown import write_markdown
    from altgrad_cli.reporting.report import build_report

    path = run_dir / "report.md"
    write_markdown(build_report([run_dir]), path)
    return path
