"""The first tensor that was not finite as the diagnosis tells of it; and amax histories that were far off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from altgrad_cli.formats import parse_format
from altgrad_cli.training.origin import FirstNonfinite, Producer
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.trace_record import TraceRecord

PRODUCER_WORDS: dict[Producer, str] = {
    "rounding": "the rounding made it out of a finite value",
    "product": "the layer computed it from finite inputs",
    "data": "it came in with the embedded batch, from finite embeddings",
    "state": "it was in the state before the step began",
    "optimizer": "the optimizer computed it from finite gradients and moments",
    "unexplained": "it changed between two tensors that no operation separates: a fault, not arithmetic",
}


def first_nonfinite_json(first: FirstNonfinite, state: TrainState, step: int) -> dict[str, Any]:
    """The ``first_nonfinite`` of the diagnosis."""
    record = first.record
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
        "input_finite": first.input_finite,
        "producer": first.producer,
        "explanation": PRODUCER_WORDS[first.producer],
        "passed_on": _places(first.passed_on),
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
