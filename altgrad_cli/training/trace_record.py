"""A tensor of a step as a record: where it stands, how large it is, what is not finite, and its hash."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from altgrad_cli.checkpoints.payload import Phase, TraceRecord
from altgrad_cli.training.state import fingerprint


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
