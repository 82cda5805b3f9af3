"""The first tensor that was not finite as the diagnosis tells of it; and amax histories that were far off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from altgrad_cli.checkpoints.payload import TraceRecord
from altgrad_cli.formats import parse_format
from altgrad_cli.training.origin import FirstNonfinite, Producer
from altgrad_cli.training.state import TrainState

PRODUCER_WORDS: dict[Producer, str] = {
    "rounding": "the rounding made it out of a finite value",
    "product": "the layer computed it from finite inputs",
    "data": "it came in with the embedded batch, from finite embeddings",
    "state": "it was in the state before the step began",
    "optimizer": "the optimizer computed it from finite gradients and moments",
    "unexplained": "it changed between two tensors that no operation separates: a fault, not arithmetic",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the step that was not finite after the first one was."""

    phase: str
    module: str
    role: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where non-finite values began, in full."""

    step: int
    phase: str
    module: str
    role: str
    part: str | None
    index: int | None
    coordinates: tuple[int, int] | None
    """(row, column) where the tensor is a layer's weight; a convolution's has a row an output channel."""
    value: float | None
    count: int
    value_before_rounding: float | None
    scale: float | None
    format: str | None
    code: int | None
    """What the value before rounding became on the grid."""
    input_finite: bool
    producer: Producer
    explanation: str
    passed_on: tuple[Place, ...]


def describe_origin(first: FirstNonfinite, state: TrainState, step: int) -> Origin:
    """The origin ``first`` of the step's failure, with its place in the weights and on the grid."""
    record = first.record
    return Origin(
        step=step,
        phase=record.phase,
        module=record.module,
        role=record.role,
        part=record.part or None,
        index=record.index,
        coordinates=_coordinates(record, state),
        value=record.value,
        count=record.nonfinite,
        value_before_rounding=record.before,
        scale=record.scale,
        format=record.format,
        code=_code(record),
        input_finite=first.input_finite,
        producer=first.producer,
        explanation=PRODUCER_WORDS[first.producer],
        passed_on=_places(first.passed_on),
    )


def _places(records: Sequence[TraceRecord]) -> tuple[Place, ...]:
    """Each place once, with its first count, in order."""
    counts: dict[tuple[str, str, str], int] = {}
    for record in records:
        counts.setdefault((record.phase, record.module, record.role), record.nonfinite)
    return tuple(Place(*place, count) for place, count in counts.items())


def _coordinates(record: TraceRecord, state: TrainState) -> tuple[int, int] | None:
    layer = dict(state.layers).get(record.module)
    if (
        record.index is None
        or layer is None
        or record.role not in ("weights", "stored_weights", "weight_gradient")
    ):
        return None
    columns = layer.weight[0].numel()
    return record.index // columns, record.index % columns


def _code(record: TraceRecord) -> int | None:
    """The code that the value before rounding became."""
    if record.before is None or record.format is None or not record.scale or not math.isfinite(record.before):
        return None
    fmt = parse_format(record.format)
    saturated = record.value is not None and math.isfinite(record.value)
    try:
        return fmt.to_bits(record.before / record.scale, saturate=saturated)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class AmaxSuspect:
    """An operand whose amax is far beyond what its history foresaw: the history lies, or the value leapt."""

    phase: str
    module: str
    role: str
    history: float
    amax: float
    factor: float


def amax_suspects(records: Sequence[TraceRecord], factor: float = 2.0**10) -> tuple[AmaxSuspect, ...]:
    """The ``amax_history`` of the state against each operand's ``input``, more than ``factor`` apart."""
    foreseen = {(r.module, r.part): r.amax for r in records if r.role == "amax_history" and r.amax > 0}
    operands = (
        (record, foreseen.get((record.module, record.role))) for record in records if record.part == "input"
    )
    return tuple(
        AmaxSuspect(record.phase, record.module, record.role, history, record.amax, record.amax / history)
        for record, history in operands
        if history and record.amax > history * factor
    )
