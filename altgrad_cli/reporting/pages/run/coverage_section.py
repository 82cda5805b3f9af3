"""Which share of the multiply-adds is rounded, and what is not: of a run, and of a comparison."""

from __future__ import annotations

from altgrad_cli.reporting.blocks.document import Section, TableColumn, Text, section
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.runs.record import RunRecord

_KEYS = ("module", "operation", "share", "why")
_MOST_ROWS = 20


def run_coverage(scope: Scope, log: RunRecord) -> Section | None:
    """What of one run's forward pass is rounded, and by module what is not."""
    said = log.coverage
    left_out = said.get("left_out")
    if not said or not isinstance(left_out, dict):
        return None
    n = scope.evidence.of(log)
    text = (
        f"Rounded are layers with a share of {n('coverage.share')} of the {n('coverage.multiply_adds')} "
        f"multiply-adds of a forward pass; {n('coverage.unreached')} lie outside the layers that altgrad can "
        "round. By module, shares of the whole, what stays in float32:"
    )
    columns = [TableColumn(key, f"{log.name}: coverage.left_out.{{}}.{key}") for key in _KEYS]
    table = scope.evidence.table("number", list(left_out)[:_MOST_ROWS], columns)
    return section("What is rounded", Text(text), table)


def coverage_of_runs(scope: Scope) -> Section | None:
    """The same for a comparison, whose runs are of one model: of the first that rounds something."""
    log = next((log for log in scope.subjects if log.coverage), None)
    return None if log is None else run_coverage(scope, log)
