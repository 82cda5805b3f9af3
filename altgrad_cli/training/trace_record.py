"""One tensor of a step as a record: where it stands, how large it is, what is not finite, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from altgrad_cli.training.state import fingerprint

Phase = Literal["state", "forward", "backward", "optimizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceRecord:
    """One tensor of a step. Non-finite values enter ``nonfinite`` and nothing else."""

    phase: Phase
    module: str
    role: str
    """A role of design (``weights``, ..., ``optimizer_state``), or ``output``, ``output_gradient``,
    ``weight_gradient``, ``loss``, ``amax_history``."""
    part: str = ""
    """``input`` or ``rounded`` of an operand; ``m`` or ``v`` of the optimizer state."""
    amax: float
    mean: float
    nonfinite: int
    hash: str
    index: int | None = None
    """Flat index of the first non-finite element."""
    value: float | None = None
    """That element."""
    before: float | None = None
    """What was rounded to it, where the record is a rounded operand."""
    scale: float | None = None
    format: str | None = None


def record_of(
    tensor: Tensor, *, phase: Phase, module: str, role: str, part: str = "", **more: Any
) -> TraceRecord:
    """The record of one tensor."""
    x = tensor.detach()
    finite = torch.isfinite(x)
    bad = int(x.numel() - finite.sum())
    index = value = None
    if bad:
        index = int((~finite).flatten().nonzero()[0])
        value = float(x.flatten()[index])
        x = torch.where(finite, x, 0.0)
    count = max(tensor.numel() - bad, 1)
    return TraceRecord(
        phase=phase,
        module=module,
        role=role,
        part=part,
        amax=float(x.abs().max()) if x.numel() else 0.0,
        mean=float(x.sum(dtype=torch.float64)) / count,
        nonfinite=bad,
        hash=fingerprint(tensor),
        index=index,
        value=value,
        **more,
    )


def to_plain(records: Sequence[TraceRecord]) -> list[dict[str, Any]]:
    """Records as a payload keeps them."""
    return [asdict(record) for record in records]


def from_plain(saved: Sequence[Mapping[str, Any]]) -> tuple[TraceRecord, ...]:
    """The records in a payload."""
    return tuple(TraceRecord(**record) for record in saved)
