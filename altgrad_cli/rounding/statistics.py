"""What is counted where a tensor is rounded: one row of numbers per rounding.

Counted here, beside the rounding, and nowhere else, so that no second pass over the data is needed and a
rate means the same thing in every report. The five values 0, 0.1, 0.3, 6.5 and 7 rounded to E2M1 (0, .5, 1,
1.5, 2, 3, 4, 6; the next value would be 8, so overflow begins at 7) at scale 1 become 0, 0, 0.5, 6 and 6:

    amax 7        count 5       nonzero 4     nonfinite 0
    overflow 1    7 would round to 8
    clipped 2     6.5 and 7 are above 6
    underflow 1   0.1 became 0
    subnormal 1   0.5 is below the smallest normal value, 1
    error_sum     -0.1 + 0.2 - 0.5 - 1 = -1.4
    abs_sum       0.1 + 0.3 + 6.5 + 7 = 13.9
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from altgrad_cli.rounding.constants import RoundingPlan, float32
from altgrad_cli.rounding.scratch import Scratch

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

Counters = Literal["extremes", "all"]
"""How much of a row is filled: ``extremes`` only ``amax`` and ``nonfinite``, the rest is NaN."""

_AMAX, _NONFINITE = STATS.index("amax"), STATS.index("nonfinite")

_ROW = 128
"""Values whose least magnitude says whether they are looked at one by one."""


def count_everywhere(x: Tensor, q: Tensor, plan: RoundingPlan, scale: float | Tensor) -> Tensor:
    """The row for float32 ``x`` rounded to ``q``, without branches and without waiting for the device."""
    magnitude = x.abs()
    finite = magnitude <= torch.finfo(torch.float32).max
    scaled = magnitude / _as_tensor(scale, x)
    both = finite & torch.isfinite(q)
    rounded = q.abs()
    zero = rounded == 0
    if plan.format.min_normal is None:
        subnormal = torch.zeros((), device=x.device)
    else:
        subnormal = ((rounded < _as_tensor(scale, x) * plan.format.min_normal) & ~zero).sum()
    amax = torch.where(finite, magnitude, 0.0).max() if x.numel() else torch.zeros((), device=x.device)
    columns = (
        amax,
        torch.full((), float(x.numel()), dtype=torch.float64, device=x.device),
        (x != 0).sum(),
        (scaled >= plan.format.overflow_threshold).sum(),
        (scaled > plan.format.max_representable_value).sum(),
        ((x != 0) & zero).sum(),
        subnormal,
        (~finite).sum(),
        torch.where(both, q.double() - x.double(), 0.0).sum(),
        torch.where(finite, magnitude, 0.0).sum(dtype=torch.float64),
    )
    return torch.stack([column.double() for column in columns])


def count_extremes(x: Tensor, row: Tensor) -> float:
    """Fill ``amax`` and ``nonfinite`` of ``row`` and return the largest |x|, inf where it is not known.

    All that training itself asks of a rounding: the next scale, and whether the step may be committed.
    It is known on the CPU where all of ``x`` is finite; elsewhere nothing is waited for.
    """
    row.fill_(math.nan)
    if x.numel() == 0:
        row[_AMAX] = row[_NONFINITE] = 0.0
        return 0.0
    if x.device.type == "cpu":
        low, high = torch.aminmax(x)
        amax = max(-low.item(), high.item())
        if math.isfinite(amax):
            values = row.numpy()
            values[_AMAX], values[_NONFINITE] = amax, 0.0
            return amax
    magnitude = x.abs()
    finite = magnitude <= torch.finfo(torch.float32).max
    row[_AMAX] = torch.where(finite, magnitude, 0.0).max()
    row[_NONFINITE] = (~finite).sum()
    return math.inf


def add_row(row: Tensor, other: Tensor) -> None:
    """Add the counts of ``other`` to ``row``, in place."""
    amax = torch.maximum(row[_AMAX], other[_AMAX])
    row.add_(other)
    row[_AMAX] = amax


def own_units(row: Tensor, x: Tensor, q: Tensor) -> bool:
    """Turn the ``row`` of x / s into that of float32 ``x`` rounded to ``q``, in place, on the CPU.

    Returns False, with nothing done, where a value is not finite or a sum leaves float32.
    """
    magnitude = x.abs()
    amax, abs_sum, error = magnitude.max().item(), magnitude.sum().item(), (q - x).sum().item()
    if not (math.isfinite(abs_sum) and math.isfinite(error)):
        return False
    nonzero, kept = int(torch.count_nonzero(x)), int(torch.count_nonzero(q))
    own = {
        "amax": amax,
        "nonzero": nonzero,
        "underflow": nonzero - kept,
        "error_sum": error,
        "abs_sum": abs_sum,
    }
    for name, value in own.items():
        row[STATS.index(name)] = value
    return True


def _as_tensor(scale: float | Tensor, like: Tensor) -> Tensor:
    # A number as divisor would be turned into its reciprocal on some devices, which rounds differently.
    if isinstance(scale, Tensor):
        return scale.to(torch.float32)
    return torch.full((), scale, dtype=torch.float32, device=like.device)


def safe_magnitude(plan: RoundingPlan) -> float:
    """Within this |x| nothing is clipped, whichever way the quotient was rounded."""
    return plan.format.max_representable_value * plan.scale * (1 - 1e-6)


def smallest_normal(plan: RoundingPlan) -> float | None:
    """The smallest normal result; None where none is subnormal, which is so too where float32 has none."""
    return float32((plan.format.min_normal or 0.0) * plan.scale) or None


class SliceCounter:
    """The same row, added up slice by slice on the CPU, looking closely only where something is to be found.

    ``before`` looks at the values and leaves |x| in the scratch, ``after`` looks at the result. The row is
    that of ``count_everywhere``: exactly in ``amax`` and the counts, to float32 summation error in the sums.
    """

    def __init__(self, plan: RoundingPlan) -> None:
        self._plan = plan
        scale = plan.scale
        self._safe = safe_magnitude(plan)
        # Below this magnitude a result can be subnormal or zero.
        self._small = scale * (
            plan.format.max_representable_value if plan.format.min_normal is None else plan.format.min_normal
        )
        self._min_normal = smallest_normal(plan)
        self._amax = 0.0
        self._totals = [0.0] * (len(STATS) - 1)
        self._exact: Tensor | None = None
        self._has_small = False
        self._small_rows: Tensor | None = None
        self._seen = (0.0,) * 5

    def before(self, x: Tensor, space: Scratch) -> bool:
        """Count what depends on x alone. Returns whether no |x / s| exceeds the format's maximum."""
        magnitude = torch.abs(x, out=space.gap.values)
        high = magnitude.amax().item()
        abs_sum, total = magnitude.sum().item(), x.sum().item()
        within = high <= self._safe
        if not (math.isfinite(abs_sum) and math.isfinite(total)):
            # Rare: not finite, or too large to be summed in float32.
            self._exact = x.clone()
            return within
        clipped = overflow = zeros = 0.0
        if not within:
            maximum, threshold = (
                self._plan.format.max_representable_value,
                self._plan.format.overflow_threshold,
            )
            clipped = _count(self._scaled(magnitude, space).gt_(maximum))
            overflow = _count(self._scaled(magnitude, space).ge_(threshold)) if clipped else 0.0
            if overflow and not self._plan.saturate:
                self._exact = x.clone()  # the result will hold values that have no error
        if self._find_small(magnitude) == 0:
            part = self._with_small(x)
            zeros = _count(torch.eq(part, 0.0, out=space.noise.values[: part.numel()]))
        self._amax = max(self._amax, high)
        self._seen = (zeros, overflow, clipped, abs_sum, total)
        return within

    def _scaled(self, magnitude: Tensor, space: Scratch) -> Tensor:
        return torch.div(magnitude, self._plan.scale, out=space.noise.values)

    def _find_small(self, magnitude: Tensor) -> float:
        """Note where |x| is so small that the result can be subnormal or zero; returns the least |x|."""
        row = _ROW if magnitude.numel() % _ROW == 0 else magnitude.numel()
        lows = magnitude.view(-1, row).amin(1)
        low = lows.amin().item()
        self._has_small = low < self._small
        self._small_rows = None
        if self._has_small:
            rows = torch.nonzero(lows <= float32(self._small)).view(-1)
            if 4 * len(rows) <= len(lows):  # else looking at everything is cheaper
                self._small_rows = rows
        return low

    def _with_small(self, values: Tensor) -> Tensor:
        """The part of ``values`` outside of which no result is subnormal or zero, flat."""
        rows = self._small_rows
        return values if rows is None else values.view(-1, _ROW)[rows].view(-1)

    def after(self, q: Tensor, space: Scratch) -> None:
        """Count what depends on the result, and add the slice to the totals."""
        if self._exact is not None:
            row = count_everywhere(self._exact, q, self._plan, self._plan.scale).tolist()
            self._amax = max(self._amax, row[0])
            self._add(*row[1:])
            self._exact = None
            return
        zeros, overflow, clipped, abs_sum, total = self._seen
        underflow = subnormal = 0.0
        if self._has_small:
            part = self._with_small(q)
            noise = space.noise.values[: part.numel()]
            lost = _count(torch.eq(part, 0.0, out=noise))
            underflow = lost - zeros
            if self._min_normal is not None:
                subnormal = _count(torch.abs(part, out=noise).lt_(self._min_normal)) - lost
        size = q.numel()
        error = q.sum().item() - total
        self._add(size, size - zeros, overflow, clipped, underflow, subnormal, 0.0, error, abs_sum)

    def _add(self, *row: float) -> None:
        self._totals = [a + b for a, b in zip(self._totals, row, strict=True)]

    def row(self) -> list[float]:
        """The row of everything seen so far."""
        return [self._amax, *self._totals]


def _count(ones: Tensor) -> float:
    # Zeros and ones in float32: their sum is exact to 2^24, far more than a slice holds.
    return ones.sum().item()
