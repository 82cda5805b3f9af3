"""The first tensor that was not finite, in execution order: who produced it, and who passed it on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from altgrad_cli.formats import parse_format
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.trace_record import TraceRecord

Producer = Literal["rounding", "product", "data", "state", "optimizer", "unexplained"]

PRODUCER_WORDS: dict[Producer, str] = {
    "rounding": "the rounding made it out of a finite value",
    "product": "the layer computed it from finite inputs",
    "data": "it came in with the embedded batch, from finite embeddings",
    "state": "it was in the state before the step began",
    "optimizer": "the optimizer computed it from finite gradients and moments",
    "unexplained": "it changed between two tensors that no operation separates: a fault, not arithmetic",
}


@dataclass(frozen=True, slots=True)
class FirstNonfinite:
    """Where non-finite values began."""

    record: TraceRecord
    producer: Producer
    input_finite: bool
    passed_on: tuple[TraceRecord, ...]
    """Records that were not finite after it, in order."""

    def to_json(self, state: TrainState, step: int) -> dict[str, Any]:
        """The ``first_nonfinite`` of the diagnosis."""
        record = self.record
        return {
            "step": step,
            "phase": record.phase,
            "module": record.module,
            "role": record.role,
            "part": record.part or None,
            "index": record.index,
            "coordinates": _coordinates(record, state),
            "value": record.value,
            "count": record.nonfinite,
            "value_before_rounding": record.before,
            "scale": record.scale,
            "format": record.format,
            "code": _code(record),
            "input_finite": self.input_finite,
            "producer": self.producer,
            "explanation": PRODUCER_WORDS[self.producer],
            "passed_on": _places(self.passed_on),
        }


def _places(records: Sequence[TraceRecord]) -> list[dict[str, Any]]:
    """Each place once, with its first count, in order."""
    places: dict[tuple[str, str, str], int] = {}
    for record in records:
        places.setdefault((record.phase, record.module, record.role), record.nonfinite)
    return [
        {"phase": phase, "module": module, "role": role, "count": count}
        for (phase, module, role), count in places.items()
    ]


def find_first(records: Sequence[TraceRecord]) -> FirstNonfinite | None:
    """The first non-finite record of a trace, or None where all of it is finite."""
    at = next((number for number, record in enumerate(records) if record.nonfinite), None)
    if at is None:
        return None
    record = records[at]
    producer = _producer(record, records[:at])
    return FirstNonfinite(
        record=record,
        producer=producer,
        # Everything before the first non-finite tensor was finite; only a state that was broken already had
        # no finite input.
        input_finite=producer != "state",
        passed_on=tuple(later for later in records[at + 1 :] if later.nonfinite),
    )


def _producer(record: TraceRecord, earlier: Sequence[TraceRecord]) -> Producer:
    if record.phase == "state":
        return "state"
    if record.part == "rounded":
        return "rounding"
    if record.part == "input":
        return "product" if _may_overflow(record, earlier) else "unexplained"
    if record.module == "wte" and record.role == "output":
        return "data"
    if record.phase == "optimizer":
        return "optimizer" if _optimizer_may_overflow(record, earlier) else "unexplained"
    return "product"


_FLOAT32_ROOT = 1e15
"""Products of finite float32 numbers below this stay finite."""


def _may_overflow(record: TraceRecord, earlier: Sequence[TraceRecord]) -> bool:
    """Whether an operation between the last seen tensors and this operand could have overflowed float32.

    A gradient operand is the very tensor that was seen as the module's output gradient; a weight operand is
    the parameter. Only activations have arithmetic (attention, GELU) before them that no hook sees.
    """
    if record.role != "activations":
        return False
    recent = [seen.amax for seen in earlier if seen.phase == "forward"][-4:]
    return any(amax > _FLOAT32_ROOT for amax in recent)


def _optimizer_may_overflow(record: TraceRecord, earlier: Sequence[TraceRecord]) -> bool:
    """A gradient above 1e19 squares to inf; anything else in Adam is tame."""
    mine = [seen.amax for seen in earlier if seen.module == record.module and seen.role == "weight_gradient"]
    moments = [
        seen.amax
        for seen in earlier
        if seen.module == record.module and seen.role in ("optimizer_state", "stored_weights")
    ]
    return any(amax > 1e18 for amax in mine + moments)


def _coordinates(record: TraceRecord, state: TrainState) -> list[int] | None:
    """The index as (row, column) where the record is a weight matrix."""
    layer = dict(state.layers).get(record.module)
    if (
        record.index is None
        or layer is None
        or record.role not in ("weights", "stored_weights", "weight_gradient")
    ):
        return None
    columns = layer.weight.shape[1]
    return [record.index // columns, record.index % columns]


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


def amax_suspects(records: Sequence[TraceRecord], factor: float = 2.0**10) -> list[Mapping[str, Any]]:
    """Operands whose amax is far beyond what their amax history foresaw: it lies, or the value leapt.

    Compared within the trace: ``amax_history`` of the state against the operand's ``input``.
    """
    foreseen = {(r.module, r.part): r.amax for r in records if r.role == "amax_history" and r.amax > 0}
    suspects: list[Mapping[str, Any]] = []
    for record in records:
        expected = foreseen.get((record.module, record.role))
        if record.part == "input" and expected and record.amax > expected * factor:
            suspects.append(
                {
                    "phase": record.phase,
                    "module": record.module,
                    "role": record.role,
                    "history": expected,
                    "amax": record.amax,
                    "factor": record.amax / expected,
                }
            )
    return suspects
