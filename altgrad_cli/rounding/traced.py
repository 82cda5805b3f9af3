"""The rounding as a graph sees it: operands, scales and counts are tensors, formats are constants.

``TracedRounding`` puts it into the graph of a whole forward and backward pass. The bits of a rounded operand
are those of the eager form for the same operand and scale.

The plan is made without a scale, so nothing of the scale is folded into its constants. For E3M4 at scale 0.25
the graph computes, of x = 0.3: scaled = 0.3 / 0.25 = 1.2, grid = 1.1875 (the gap is 1/16), and value =
1.1875 * 0.25 = 0.296875. A uniform grid is the integers in the plan's units: for E0M7 at the same scale,
whose step is 1/128, scaled = 0.3 / 0.25 * 128 = 153.6 is clamped to 127, and value = 127 / 128 * 0.25.

Its counts come in two halves: ``count_lines`` for each tensor inside the graph, ``finish_rows`` for all of
them after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.constants import Overflow, RoundingPlan, plan_rounding
from altgrad_cli.rounding.kernel import TRACED, round_slice
from altgrad_cli.rounding.scaling import scale_on_device
from altgrad_cli.rounding.scratch import Buffer
from altgrad_cli.rounding.statistics import STATS
from altgrad_cli.rounding.stochastic import RandomWork, random_bits_traced

LINE = 2048
"""The most values whose counts are added in float32 before float64 takes over."""

_PAIR = 4096.0  # two counts of a line in one float32: LINE * (_PAIR + 1) < 2^24

_UNIT = 4096.0  # errors and magnitudes are added in it: a line of the largest floats does not overflow

WEIGHTS = OPERAND_ROLES.index("weights")


class Rounded(NamedTuple):
    """One tensor on its way through a rounding, in the plan's units where not said otherwise."""

    scaled: Tensor
    grid: Tensor
    value: Tensor
    """Q(x), in the units of x."""


def round_traced(
    x: Tensor, scale: Tensor, plan: RoundingPlan, key: Tensor | None, *, power_of_two: bool
) -> Rounded:
    """Round float32 ``x`` by a float32 ``scale`` of two: what x is divided by, and what the grid is times.

    Args:
        scale: (2,), or with further dimensions that broadcast with x.
        plan: made without a scale.
        key: int32 (2,), of stochastic rounding; None rounds to nearest.
        power_of_two: the scale is one, and its first entry is the reciprocal: the same quotient.
    """
    scaled = x * scale[0] if power_of_two else x / scale[0]
    unit = plan.divisor  # a step that joined the scale, apart from it: their product can leave float32
    if unit is not None:
        scaled = scaled * (1 / unit)
    random = None
    if key is not None:
        bits = random_bits_traced(x.numel(), key, x.device).view(x.shape)
        random = RandomWork(bits, torch.empty_like(x), torch.empty_like(x), torch.empty_like(bits))
    gap, grid = torch.empty_like(x), torch.empty_like(x)
    round_slice(scaled, grid, Buffer(gap, gap.view(torch.int32)), plan, None, random, TRACED)
    value = grid if unit is None else grid * unit
    return Rounded(scaled, grid, value * scale[1])


def round_and_count(
    x: Tensor,
    scale: Tensor,
    plan: RoundingPlan,
    key: Tensor | None,
    ones: Tensor,
    *,
    power_of_two: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Q(x), and what ``count_lines`` finds, in one loop over the data.

    Left alone, torch's compiler would emit two loops, one that counts and another that rounds a second time
    and stores. ``as_strided`` makes it write the result to memory first, and a scale for each line gives the
    storing loop the shape of the counting loop, so that the two become one.

    Args:
        x, scale, plan, key, power_of_two: as ``round_traced``; x of any shape, scale (2,).
        ones: float32 ones, ``line_count(x.shape)`` or more, from outside the graph.
    """
    lines = x.reshape(-1, line_length(x.shape[-1]))
    scales = scale.view(2, 1, 1) * ones[: lines.shape[0]].view(-1, 1)
    rounded = round_traced(lines, scales, plan, key, power_of_two=power_of_two)
    value = rounded.value.as_strided(rounded.value.shape, rounded.value.stride())
    counts = count_lines(lines, rounded.scaled, rounded.grid, value, plan)
    return value.view(x.shape), counts


class Slot(NamedTuple):
    """One operand of one layer: where, onto which grid, and whose scale."""

    layer: int
    role: int
    format: FP8Format
    from_tensor: bool
    """The scale is taken from the tensor itself."""


class TracedRounding:
    """Stands in the pass slot while a graph is recorded; its attributes are the graph's further outputs.

    Args:
        slots: the operands that are rounded.
        scales: float32 (layers, 3, 2), as ``round_traced`` takes them.
        keys: int32 (operands, 2) in the order of execution, of stochastic rounding.
        ones: as ``round_and_count`` takes them, enough for the largest operand.
        margin: of scales taken from the tensor.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        scales: Tensor,
        keys: Tensor | None,
        ones: Tensor,
        *,
        power_of_two: bool,
        margin: float,
        overflow: Overflow,
    ) -> None:
        self._slots = {(slot.layer, slot.role): slot for slot in slots}
        self._layers = {slot.layer for slot in slots}
        self._scales, self._keys, self._ones = scales, keys, ones
        self._power_of_two, self._margin, self._overflow = power_of_two, margin, overflow
        self.order: list[tuple[int, int]] = []
        """(layer, role) in the order of rounding."""
        self.sizes: list[int] = []
        """How many values each operand has."""
        self.counts: list[tuple[Tensor, Tensor]] = []
        """What ``count_lines`` found for each."""
        self.rounded_weights: dict[int, Tensor] = {}
        self.scales_taken: dict[tuple[int, int], Tensor] = {}

    def leaves_alone(self, layer: int) -> bool:
        """Whether nothing of layer number ``layer`` is rounded."""
        return layer not in self._layers

    def takes_matrices(self, layer: int) -> bool:
        """No operand that a graph knows is in blocks."""
        return False

    def round(self, layer: int, role: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Q(x) for operand ``role`` of layer number ``layer``, the same for both its products."""
        slot = self._slots.get((layer, role))
        if slot is None:
            return x, x
        key = None if self._keys is None else self._keys[len(self.order)]
        self.order.append((layer, role))
        self.sizes.append(x.numel())
        scale = self._scales[layer, role]
        if slot.from_tensor:
            scale = self._own_scale(x, slot)
        plan = traced_plan(slot.format, self._overflow)
        value, counts = round_and_count(x, scale, plan, key, self._ones, power_of_two=self._power_of_two)
        self.counts.append(counts)
        if role == WEIGHTS:
            self.rounded_weights[layer] = value
        return value, value

    def _own_scale(self, x: Tensor, slot: Slot) -> Tensor:
        scale = scale_on_device(x, slot.format, power_of_two=self._power_of_two, margin=self._margin)
        self.scales_taken[slot.layer, slot.role] = scale
        return torch.stack((1 / scale if self._power_of_two else scale, scale))


def traced_plan(format: FP8Format, overflow: Overflow) -> RoundingPlan:
    """The plan of a rounding whose scale is a tensor."""
    return plan_rounding(format, None, overflow if format.has_specials else "saturate")


def line_length(size: int) -> int:
    """The longest line, at most ``LINE`` values, that divides ``size`` evenly."""
    return next(length for length in range(min(size, LINE), 0, -1) if size % length == 0)


def line_count(shape: Sequence[int]) -> int:
    """How many such lines a tensor of this shape has."""
    return math.prod(shape) // line_length(shape[-1])


def count_lines(
    x: Tensor, scaled: Tensor, grid: Tensor, value: Tensor, plan: RoundingPlan
) -> tuple[Tensor, Tensor]:
    """The largest finite |x| (0-d, float32), and the sums (1-D, float64) that ``finish_rows`` asks for.

    Args:
        x, value: what was rounded, and the result: (lines, at most ``LINE``).
        scaled, grid: x / s and its rounding, in the plan's units.

    A line is summed in float32 and the lines in float64. One float32 sum carries two counts, exactly: a value
    that has the first property adds 1, one with the second adds 4096. Where 3 of 2048 values overflow and 5
    are clipped, the sum is 5 + 3 * 4096 = 12293.
    """
    magnitude, error = x.abs(), value - x
    small = torch.where(grid.abs() < plan.min_normal, 1.0, 0.0)
    finite = magnitude <= torch.finfo(torch.float32).max
    magnitude = torch.where(finite, magnitude, 0.0)
    error = torch.where(finite if plan.saturate else finite & torch.isfinite(value), error, 0.0)
    small = torch.where(finite, small, _PAIR)
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
        (error * (1 / _UNIT)).sum(1),
        (magnitude * (1 / _UNIT)).sum(1),
    )
    return magnitude.amax(1).amax(), torch.stack(sums).sum(1, dtype=torch.float64)


def _pair(weights: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each line's weights hold a 1, and how many hold ``_PAIR``."""
    sums = weights.sum(1)
    high = torch.floor(sums * (1 / _PAIR))
    return sums - high * _PAIR, high


def finish_rows(amax: Tensor, sums: Tensor, sizes: Tensor) -> Tensor:
    """The rows (tensors, len(STATS)) from what ``count_lines`` found for each.

    Args:
        amax: (tensors,).
        sums: (tensors, sums of one).
        sizes: float64 (tensors,), how many values each has.
    """
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
        "error_sum": error * _UNIT,
        "abs_sum": abs_sum * _UNIT,
    }
    return torch.stack([columns[name] for name in STATS], dim=1)
