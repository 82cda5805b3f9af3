"""The rows of statistics as a graph computes them, fused with the roundings that they describe.

In two halves: ``count_lines`` for each tensor inside the graph, ``finish_rows`` for all of them after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.rounding.constants import RoundingPlan
from altgrad_cli.rounding.statistics import STATS

LINE = 2048
"""The most values whose counts are added in float32 before float64 takes over."""

_PAIR = 4096.0  # two counts of a line in one float32: LINE * (_PAIR + 1) < 2^24


def line_length(size: int) -> int:
    """The longest line, at most ``LINE`` values, that divides ``size`` evenly."""
    return next(length for length in range(min(size, LINE), 0, -1) if size % length == 0)


def line_count(shape: Sequence[int]) -> int:
    """How many such lines a tensor of this shape has."""
    return math.prod(shape) // line_length(shape[-1])


def count_lines(
    x: Tensor, scaled: Tensor, grid: Tensor, value: Tensor, plan: RoundingPlan, *, assume_finite: bool = False
) -> tuple[Tensor, Tensor]:
    """The largest finite |x| (0-d, float32), and the sums (1-D, float64) that ``finish_rows`` asks for.

    Args:
        x, value: what was rounded, and the result: (lines, at most ``LINE``).
        scaled, grid: x / s and its rounding, in the plan's units.
        assume_finite: leave out the steps that are needed only where x or value is not finite, or where a
            line's sum exceeds float32. If the assumption was wrong, the sum of the magnitudes or that of
            the errors is not finite, and the caller counts again.

    A line is summed in float32 and the lines in float64. One float32 sum carries two counts, exactly: a value
    that has the first property adds 1, one with the second adds 4096. Where 3 of 2048 values overflow and 5
    are clipped, the sum is 5 + 3 * 4096 = 12293.
    """
    magnitude, error = x.abs(), value - x
    small = torch.where(grid.abs() < plan.min_normal, 1.0, 0.0)
    if not assume_finite:
        finite = magnitude <= torch.finfo(torch.float32).max
        magnitude = torch.where(finite, magnitude, 0.0)
        error = torch.where(finite if plan.saturate else finite & torch.isfinite(value), error, 0.0)
        small = torch.where(finite, small, _PAIR)
    unit = _unit(assume_finite)
    size = scaled.abs()
    beyond = torch.where(size >= plan.overflow_threshold, _PAIR + 1.0, 1.0)
    zero = torch.where(x == 0, _PAIR + 1.0, 1.0)
    clipped, overflow = _pair(torch.where(size > plan.limit, beyond, 0.0))
    lost, zeros = _pair(torch.where(value == 0, zero, 0.0))
    below, nonfinite = _pair(small)
    if plan.format.is_fixed_point:
        below = lost  # fixed point has no subnormals
    sums = (
        nonfinite,
        zeros,
        overflow,
        clipped,
        lost,
        below,
        (error * (1 / unit)).sum(1),
        (magnitude * (1 / unit)).sum(1),
    )
    return magnitude.amax(1).amax(), torch.stack(sums).sum(1, dtype=torch.float64)


def _pair(weights: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each line's weights hold a 1, and how many hold ``_PAIR``."""
    sums = weights.sum(1)
    high = torch.floor(sums * (1 / _PAIR))
    return sums - high * _PAIR, high


def _unit(assume_finite: bool) -> float:
    """What errors and magnitudes are added in, so that a line of the largest floats does not overflow."""
    return 1.0 if assume_finite else 4096.0


def finish_rows(amax: Tensor, sums: Tensor, sizes: Tensor, *, assume_finite: bool = False) -> Tensor:
    """The rows (tensors, len(STATS)) from what ``count_lines`` found for each.

    Args:
        amax: (tensors,).
        sums: (tensors, sums of one).
        sizes: float64 (tensors,), how many values each has.
        assume_finite: as ``count_lines`` was called.
    """
    unit = _unit(assume_finite)
    nonfinite, zeros, overflow, clipped, lost, below, error, abs_sum = sums.unbind(1)
    columns = {
        "amax": amax.double(),
        "count": sizes,
        "nonzero": sizes - zeros,
        "overflow": overflow,
        "clipped": clipped,
        "underflow": lost - zeros,
        "subnormal": below - lost,  # what vanished is below as well
        "nonfinite": nonfinite,
        "error_sum": error * unit,
        "abs_sum": abs_sum * unit,
    }
    return torch.stack([columns[name] for name in STATS], dim=1)
