"""How the report of one run opens: what became of it, its loss beside the controls, what would save it."""

from __future__ import annotations

from altgrad_cli.reporting.blocks.document import SHOWN_ROWS, Block, Table, Text, picture
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.evidence.windows import telling_window
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.reporting.pages.run.failure_sections import CAUSES, collapse_sentence
from altgrad_cli.runs.record import RunRecord

_COLUMNS = (
    *("roles", "config.precision.rounding", "last(validation_loss)", "loss_gap", "recovered_fraction"),
    *("recovered_fraction.step", "grade"),
)


def run_opening(scope: Scope, log: RunRecord) -> tuple[Block, ...]:
    """The answer, the picture and the table of the run ``log``."""
    controls = (scope.evidence.control(log, regime) for regime in ("fp32", "frozen"))
    beside = [run for run in controls if run is not None and run is not log]
    caption = "Means over about ten steps. A triangle: a collapse was detected; a cross: a loss not finite."
    blocks: tuple[Block | None, ...] = (
        Text(_answer(scope, log)),
        picture(plots.loss_figure([*beside, log]), caption),
        _table(scope, log, beside),
    )
    return tuple(block for block in blocks if block is not None)


def _answer(scope: Scope, log: RunRecord) -> str:
    """The verdict, its cause with the two numbers that tell a stalled update, and how far it is from fp32."""
    n, judged = scope.evidence.of(log), scope.evidence.judged(log)
    verdict, over = judged.verdict, telling_window(log).range
    said = f"**{n('verdict')}**" if verdict.grade else f"{n('outcome').capitalize()}, {n('grade')}"
    if verdict.cause:
        suspected = "suspected cause: " if verdict.suspected else ""
        said += f": {suspected}{CAUSES[verdict.cause]}"
    if verdict.cause in ("stalled", "slowed"):
        said += f" (tau {n(f'mean(update_transfer){over}')}, bit-stall {n(f'mean(bit_stall_rate){over}')})"
    if judged.collapse:
        said += f"; {collapse_sentence(scope, log)}"
    if judged.step is not None:
        said += f"; rho {n(f'recovered_fraction@{judged.step}')}"
        said += f", {n('loss_gap')} nats above fp32, at step {n(f'step@{judged.step}')}"
    if log.injections:
        said += f"; faults were planted: {n('injections')}"
    return f"`{log.name}`: {said}."


def _table(scope: Scope, log: RunRecord, beside: list[RunRecord]) -> Table | None:
    """The run between its controls, and the runs that undo one thing each."""
    parts = [run for run in scope.evidence.parts(log).values() if run is not log]
    retries = [run for run in scope.subjects if (arm := scope.arm(run)) and arm.retry_of == log.name]
    runs = dict.fromkeys(run.name for run in (log, *parts, *retries))
    shown = [*list(runs)[: SHOWN_ROWS - len(beside)], *(run.name for run in beside)]
    return scope.evidence.table("run", shown, _COLUMNS)
