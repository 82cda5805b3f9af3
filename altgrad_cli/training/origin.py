"""What was not finite first, in a step: the one answer that the run, its report and its diagnosis give.

A trace shows every tensor in execution order, so its first non-finite record is the origin. The counts of a
pass show the operands of the linear layers alone: they answer where there is no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from altgrad_cli.checkpoints.payload import TraceRecord
from altgrad_cli.config.precision import OPERAND_ROLES, Overflow, Role
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.surgery.precision_plan import PrecisionPlan

Producer = Literal["rounding", "product", "data", "state", "optimizer", "unexplained"]

_FLOAT32_ROOT = 1e15
"""Products of finite float32 numbers below this stay finite."""


@dataclass(frozen=True, slots=True)
class FirstNonfinite:
    """Where non-finite values began."""

    record: TraceRecord
    producer: Producer
    passed_on: tuple[TraceRecord, ...]
    """Records that were not finite after it, in order."""

    @property
    def input_finite(self) -> bool:
        """Whether it came out of finite values: only a state that was broken already did not."""
        return self.producer != "state"

    @property
    def words(self) -> str:
        """What became what, and in which phase."""
        record = self.record
        where = "" if record.rank is None else f" on rank {record.rank}"
        return f"{record.role} of {record.module} became {record.value} in the {record.phase} phase{where}"


def find_first(records: Sequence[TraceRecord]) -> FirstNonfinite | None:
    """The first non-finite record of a trace, or None where all of it is finite."""
    at = next((number for number, record in enumerate(records) if record.nonfinite), None)
    if at is None:
        return None
    return FirstNonfinite(
        record=records[at],
        producer=_producer(records[at], records[:at]),
        passed_on=tuple(later for later in records[at + 1 :] if later.nonfinite),
    )


def first_operand(stats: Tensor, plan: PrecisionPlan, overflow: Overflow) -> tuple[int, Role] | None:
    """The first operand that was not finite before its rounding or became so in it, as (layer, role).

    Args:
        stats: the counts of a pass, (layers, 3, len(STATS)); NaN rows where nothing was rounded.
        plan: what each operand was rounded to.
        overflow: with ``ieee`` a value too large becomes inf or NaN where the format has either.
    """
    counts = torch.nan_to_num(stats.double())
    bad = counts[..., STATS.index("nonfinite")] > 0
    if overflow == "ieee":
        made = counts[..., STATS.index("overflow")] > 0
        for layer, precision in enumerate(plan.layers):
            for number, role in enumerate(OPERAND_ROLES):
                fmt = precision.format_of(role)
                bad[layer, number] |= made[layer, number] & (fmt is not None and fmt.has_specials)
    places = [(int(layer), OPERAND_ROLES[int(role)]) for layer, role in bad.nonzero().tolist()]
    return min(places, key=_execution_order, default=None)


def _execution_order(place: tuple[int, Role]) -> tuple[bool, int]:
    """Forward through the layers, then backward for the gradients."""
    layer, role = place
    return (True, -layer) if role == "gradients" else (False, layer)


def _producer(record: TraceRecord, earlier: Sequence[TraceRecord]) -> Producer:
    if record.phase == "state":
        return "state"
    if record.part == "rounded":
        return "rounding"
    if record.part == "input":
        return "product" if _may_overflow(record, earlier) else "unexplained"
    if record.role == "output" and not any(seen.phase == "forward" for seen in earlier):
        return "data"  # the first output of all is the embedded batch
    if record.phase == "optimizer":
        return "optimizer" if _optimizer_may_overflow(record, earlier) else "unexplained"
    return "product"


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
