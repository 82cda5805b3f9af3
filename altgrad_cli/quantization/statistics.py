"""What is counted where a tensor is rounded: one row of numbers per rounding.

Counted here, beside the rounding, and nowhere else, so that no second pass over the data is needed and a
rate means the same thing in every report.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from altgrad_cli.quantization.kernel import workspace
from altgrad_cli.quantization.plan import RoundingPlan, float32

STATS: tuple[str, ...] = (
    "amax",  # largest finite |x|; 0 where there is none
    "count",  # values
    "nonzero",  # x != 0 (nan included)
    "overflow",  # |x / s| >= format.overflow_threshold: the unsaturated rounding exceeds the maximum
    "clipped",  # |x / s| > max
    "underflow",  # x != 0 and Q(x) == 0
    "subnormal",  # 0 < |Q(x)| < s * min_normal; 0 for fixed point
    "nonfinite",  # x is nan or inf (an inf is an overflow too)
    "error_sum",  # sum of Q(x) - x where both are finite
    "abs_sum",  # sum of |x| where x is finite
)
"""The columns of a statistics row, float64; all are counts or sums, except ``amax``."""


def count_everywhere(x: Tensor, q: Tensor, plan: RoundingPlan, scale: float | Tensor) -> Tensor:
    """The row for float32 ``x`` rounded to ``q``, without branches and without waiting for the device."""
    fmt = plan.format
    magnitude = x.abs()
    finite = magnitude <= torch.finfo(torch.float32).max
    scaled = magnitude / _as_tensor(scale, x)
    both = finite & torch.isfinite(q)
    rounded = q.abs()
    zero = rounded == 0
    if fmt.min_normal is None:
        subnormal = torch.zeros((), device=x.device)
    else:
        subnormal = ((rounded < _as_tensor(scale, x) * fmt.min_normal) & ~zero).sum()
    amax = torch.where(finite, magnitude, 0.0).max() if x.numel() else torch.zeros((), device=x.device)
    columns = (
        amax,
        torch.full((), float(x.numel()), dtype=torch.float64, device=x.device),
        (x != 0).sum(),
        (scaled >= fmt.overflow_threshold).sum(),
        (scaled > fmt.max_representable_value).sum(),
        ((x != 0) & zero).sum(),
        subnormal,
        (~finite).sum(),
        torch.where(both, q.double() - x.double(), 0.0).sum(),
        torch.where(finite, magnitude, 0.0).sum(dtype=torch.float64),
    )
    return torch.stack([column.double() for column in columns])


def _as_tensor(scale: float | Tensor, like: Tensor) -> Tensor:
    # A number as divisor would be turned into its reciprocal on some devices, which rounds differently.
    if isinstance(scale, Tensor):
        return scale.to(torch.float32)
    return torch.full((), scale, dtype=torch.float32, device=like.device)


class SliceCounter:
    """The same row, added up slice by slice on the CPU, skipping what the extremes show to be zero.

    ``before`` looks at the values and leaves |x| in ``work``; ``after`` looks at the result. The row agrees
    with ``count_everywhere`` exactly in ``amax`` and the counts, to float32 summation error in the sums.
    """

    def __init__(self, plan: RoundingPlan, scale: float) -> None:
        self._plan = plan
        self._scale = scale
        self._amax = 0.0
        self._totals = [0.0] * len(STATS)
        self._max = plan.format.max_representable_value * scale
        min_normal = plan.format.min_normal
        # Below this magnitude a result can be subnormal or zero.
        self._small = scale * (plan.format.max_representable_value if min_normal is None else min_normal)
        self._min_normal = None if min_normal is None else float32(min_normal * scale)

    def before(self, x: Tensor, work: Tensor) -> bool:
        """Count what depends on x alone. Returns whether no |x| exceeds the format's maximum."""
        torch.abs(x, out=work)
        self._size = x.numel()
        self._high, self._low = float(work.amax()), float(work.amin())
        abs_sum, self._sum = float(work.sum()), float(x.sum())
        self._exact: Tensor | None = None
        self._zeros = self._clipped = self._overflow = 0.0
        within = self._high <= self._max * (1 - 1e-6)
        if not (math.isfinite(abs_sum) and math.isfinite(self._sum)):
            # Rare: not finite, or too large to be summed in float32.
            self._exact = x.clone()
            return within
        self._abs_sum = abs_sum
        scratch = workspace(self._size, x.device, 1)
        if not within:
            self._clipped = _count(self._scaled(work, scratch).gt_(self._plan.format.max_representable_value))
        if self._clipped:
            self._overflow = _count(self._scaled(work, scratch).ge_(self._plan.format.overflow_threshold))
            if self._overflow and not self._plan.saturate:
                self._exact = x.clone()  # the result will hold values that have no error
        if self._low == 0:
            self._zeros = _count(torch.eq(x, 0.0, out=scratch))
        return within

    def _scaled(self, magnitude: Tensor, scratch: Tensor) -> Tensor:
        return torch.div(magnitude, self._scale, out=scratch)

    def after(self, q: Tensor) -> None:
        """Count what depends on the result, and add the slice to the totals."""
        if self._exact is not None:
            row = count_everywhere(self._exact, q, self._plan, self._scale).tolist()
            self._amax = max(self._amax, row[0])
            self._totals = [a + b for a, b in zip(self._totals, row, strict=True)]
            return
        underflow = subnormal = 0.0
        if self._low < self._small:
            scratch = workspace(self._size, q.device, 1)
            zeros = _count(torch.eq(q, 0.0, out=scratch))
            underflow = zeros - self._zeros
            if self._min_normal is not None:
                subnormal = _count(torch.abs(q, out=scratch).lt_(self._min_normal)) - zeros
        self._amax = max(self._amax, self._high)
        nonzero = self._size - self._zeros
        error = float(q.sum()) - self._sum
        counts = (nonzero, self._overflow, self._clipped, underflow, subnormal, 0.0)
        row = [0.0, self._size, *counts, error, self._abs_sum]
        self._totals = [a + b for a, b in zip(self._totals, row, strict=True)]

    def row(self) -> list[float]:
        """The row of everything seen so far."""
        return [self._amax, *self._totals[1:]]


def _count(ones: Tensor) -> float:
    # Zeros and ones in float32: their sum is exact to 2^24, far more than a slice holds.
    return float(ones.sum())
