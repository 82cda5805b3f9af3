"""The rows of statistics as a graph computes them, fused with the roundings that they describe.

In two halves: ``count_lines`` for each tensor inside the graph, ``finish_rows`` for all of them after it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.quantization.plan import RoundingPlan
from altgrad_cli.quantization.statistics import STATS

_UNIT = 4096.0  # magnitudes are added in this unit, so that a line of the largest floats does not overflow


def count_lines(
    x: Tensor, scaled: Tensor, grid: Tensor, value: Tensor, plan: RoundingPlan
) -> tuple[Tensor, Tensor]:
    """The largest finite |x| (0-d, float32), and the sums (1-D, float64) that ``finish_rows`` asks for.

    Args:
        x, value: what was rounded, and the result; the last dimension at most 2^24 long.
        scaled, grid: x / s and its rounding, in the plan's units.

    Inside a line of the last dimension sums are taken in float32, which is exact for counts; those of the
    lines in float64.
    """
    x, scaled, grid, value = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, scaled, grid, value))
    magnitude = x.abs()
    finite = magnitude <= torch.finfo(torch.float32).max
    magnitude = torch.where(finite, magnitude, 0.0)
    has_error = finite if plan.saturate else finite & torch.isfinite(value)
    size, lost = scaled.abs(), value == 0
    lines = [
        _ones(~finite),
        _ones(x == 0),
        _ones(size >= plan.overflow_threshold_in_units),
        _ones(size > plan.limit),
        _ones(lost),
        # A rounding to zero is small as well; fixed point has no other subnormals.
        _ones(lost if plan.min_normal is None else grid.abs() < plan.min_normal_in_units),
        torch.where(has_error, value - x, 0.0) * (1 / _UNIT),
        magnitude * (1 / _UNIT),
    ]
    sums = torch.stack([line.sum(1) for line in lines])
    return magnitude.amax(1).amax(), sums.sum(1, dtype=torch.float64)


def _ones(mask: Tensor) -> Tensor:
    return torch.where(mask, 1.0, 0.0)


def finish_rows(amax: Tensor, sums: Tensor, sizes: Tensor) -> Tensor:
    """The rows (tensors, len(STATS)) from what ``count_lines`` found for each.

    Args:
        amax: (tensors,).
        sums: (tensors, sums of one).
        sizes: float64 (tensors,), how many values each has.
    """
    nonfinite, zeros, overflow, clipped, lost, small, error, abs_sum = sums.unbind(1)
    columns = {
        "amax": amax.double(),
        "count": sizes,
        "nonzero": sizes - zeros,
        "overflow": overflow,
        "clipped": clipped,
        "underflow": lost - zeros,
        "subnormal": small - lost,
        "nonfinite": nonfinite,
        "error_sum": error * _UNIT,
        "abs_sum": abs_sum * _UNIT,
    }
    return torch.stack([columns[name] for name in STATS], dim=1)
