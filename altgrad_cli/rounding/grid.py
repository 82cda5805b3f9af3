"""A grid: what a tensor's values are rounded to, and which values share a scale.

A ``Grid`` is an element format, a block shape, a scale format and a scale recipe. Its scales are a float64
tensor with an entry a block: 0-d where one scale serves the whole tensor. Of x = [[1, 2], [30, 40]] onto E2M1
(max 6) one exact scale is 40/6; with a scale a row they would be [[2/6], [40/6]]. ``spread`` lays the scales
over the values, and everything elementwise (rounding, codes, gaps) takes them so.

A new block shape is a class here and its name in ``formats.names``: whatever rounds, measures, stores or
replays asks the grid and does not look at the shape of its scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from altgrad_cli.config.precision import Recipe
from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.scale import compute_scale, round_up_to_power_of_two, stored_scale
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.scaling import finite_part, scales_of_amax

STORED_SLACK = 4.0
"""How far below the maximum the amax of stored weights must have fallen before their scale is lowered."""


class BlockShape(Protocol):
    """Which values of a tensor share a scale."""

    @property
    def whole(self) -> bool:
        """Whether all of a tensor do."""

    def amax(self, x: Tensor) -> Tensor:
        """The largest |x| of each block, float64; NaN where a block holds one, 0 where it is empty."""

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale of each value of a tensor of this shape, as what broadcasts with it."""


class WholeTensor:
    """One scale for all values."""

    whole = True

    def amax(self, x: Tensor) -> Tensor:
        """0-d."""
        if x.numel() == 0:
            return torch.zeros((), dtype=torch.float64, device=x.device)
        low, high = torch.aminmax(x)
        return torch.maximum(-low, high).double()

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale itself."""
        return scales


BLOCK_SHAPES: Mapping[str, BlockShape] = MappingProxyType({"tensor": WholeTensor()})
"""By the name that a format has them under."""


UNSCALED = torch.ones((), dtype=torch.float64)
"""The scale of the recipe ``none``, whatever the blocks."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What a tensor is rounded onto, and how its scales come about."""

    element: FP8Format
    block: BlockShape
    power_of_two: bool
    """Whether scales are rounded up to the scale format E8M0; else they are exact."""
    recipe: Recipe | Literal["stored"]
    """``none``: 1; ``amax``: from the tensor; ``delayed``: from those before it; ``stored``: of weights that
    stay on the grid, kept as long as they fit."""
    margin: float = 1.0
    """By which a scale is widened."""

    def scales(self, x: Tensor) -> Tensor:
        """The scales of ``x`` by its own largest finite magnitudes; nothing waits for a device."""
        if self.recipe == "none":
            return UNSCALED
        x = x.detach()
        amax = self.block.amax(x if x.device.type == "cpu" else finite_part(x))
        if x.device.type == "cpu" and not bool(amax.isfinite().all()):
            amax = self.block.amax(finite_part(x))
        if amax.dim() or x.device.type != "cpu":
            return self.scales_of(amax)
        # One number, where it costs least: a tensor operation takes longer than all of this arithmetic.
        scale = compute_scale(float(amax), self.element)
        scale = round_up_to_power_of_two(scale) if self.power_of_two else scale
        return torch.tensor(scale * self.margin, dtype=torch.float64)

    def scales_of(self, amax: Tensor) -> Tensor:
        """The scales of blocks with these finite largest magnitudes."""
        maximum = self.element.max_representable_value
        return scales_of_amax(amax, maximum, power_of_two=self.power_of_two, margin=self.margin)

    def stored_scales(self, x: Tensor, before: Tensor | None = None, amax: float | None = None) -> Tensor:
        """The power-of-two scales of stored weights, with hysteresis, since each change re-encodes them.

        A fresh one is ``formats.scale.stored_scale``. One of ``before`` stays unless its weights overflow
        (amax / s >= ``element.overflow_threshold``) or amax < max * s / 4, and where amax is 0 or not finite.

        Args:
            x: the weights.
            before: their scales until now; returned itself where none changes.
            amax: max |x|, where it is known.

        Raises:
            UsageError: no scales before and weights that are not finite.
        """
        known = amax is not None and self.block.whole
        largest = torch.tensor(amax, dtype=torch.float64) if known else self.block.amax(x.detach()).cpu()
        scales = [None] * largest.numel() if before is None else before.flatten().tolist()
        after = [
            self._stored_scale(block, scale)
            for block, scale in zip(largest.flatten().tolist(), scales, strict=True)
        ]
        if before is not None and after == scales:
            return before
        return torch.tensor(after, dtype=torch.float64).view(largest.shape)

    def _stored_scale(self, amax: float, before: float | None) -> float:
        if before is not None and (not math.isfinite(amax) or amax == 0):
            return before
        low, high = self.element.max_representable_value / STORED_SLACK, self.element.overflow_threshold
        if before is not None and before * low <= amax < before * high:
            return before
        return stored_scale(self.element, amax)

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale of each value of a tensor of this shape, as what broadcasts with it."""
        return self.block.spread(scales, shape) if scales.dim() else scales

    def scale_at(self, scales: Tensor, shape: Sequence[int], index: int | None) -> float | None:
        """The scale of the value with this flat index; None for no index where the scales are several."""
        if scales.numel() == 1:
            return float(scales)
        return None if index is None else float(self.spread(scales, shape).expand(shape).flatten()[index])

    def round(self, x: Tensor, scales: Tensor, **options: Any) -> Tensor:
        """``round_to_grid`` with each value divided by the scale of its block."""
        return round_to_grid(x, self.element, self.spread(scales, x.shape), **options)


@lru_cache(maxsize=256)
def operand_grid(
    format: FP8Format, recipe: Recipe, *, power_of_two: bool = True, margin: float = 1.0
) -> Grid:
    """The grid of an operand of a product."""
    return Grid(format, BLOCK_SHAPES[format.block], power_of_two, recipe, margin)


@lru_cache(maxsize=256)
def stored_grid(format: FP8Format) -> Grid:
    """The grid of weights that are stored on it: its scales are powers of two."""
    return Grid(format, BLOCK_SHAPES[format.block], True, "stored")
