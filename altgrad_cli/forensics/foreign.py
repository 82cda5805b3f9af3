"""What can be said of tensors that altgrad did not write: values, and the grid they would be put on."""

from __future__ import annotations

from typing import Any

import torch

from altgrad_cli.forensics.evidence import ForeignTensors
from altgrad_cli.forensics.layer_table import weight_measures
from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.scaling import stored_weight_scale


def describe_tensors(foreign: ForeignTensors, fmt: FP8Format | None) -> list[dict[str, Any]]:
    """One row a floating-point tensor, worst first; grid measures only with a format."""
    rows = []
    for name, tensor in foreign.tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        values = tensor.detach().float()
        finite = torch.isfinite(values)
        bad = int((~finite).sum())
        amax = float(torch.where(finite, values, 0.0).abs().max())
        scale = None if fmt is None else stored_weight_scale(amax, fmt, None)
        rows.append(
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "nonfinite_weights": bad,
                "first_nonfinite_index": int((~finite).flatten().nonzero()[0]) if bad else None,
                "amax": amax,
                "zero_share": float((values == 0).float().mean()),
                "format": None if fmt is None else fmt.describe(),
                "scale": scale,
                **weight_measures(values, fmt, scale),
            }
        )
    return sorted(
        rows, key=lambda row: (row["nonfinite_weights"], row["rounded_to_zero"] or 0.0), reverse=True
    )
