"""A grid: what a tensor's values are rounded to, and which values share a scale.

A ``Grid`` is an element format, a block shape, a scale format and a scale recipe. Its scales are a float64
tensor with an entry a block: 0-d where one scale serves the whole tensor. Of x = [[1, 2], [30, 40]] onto E2M1
(max 6) one exact scale is 40/6; with a scale a row they would be [[2/6], [40/6]]. ``spread`` lays the scales
over the values, and everything elementwise (rounding, codes, gaps) takes them so.

Whatever rounds, measures, stores or replays asks the grid and does not look at the shape of its scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from altgrad_cli.config.precision import Recipe
from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.block_spec import BlockSpec
from altgrad_cli.formats.scale import compute_scale, round_up_to_power_of_two, stored_scale
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.native.call import tile_amax
from altgrad_cli.rounding.scaling import finite_part, named_scales, scales_of_amax

STORED_SLACK = 4.0
"""How far below the maximum the amax of stored weights must have fallen before their scale is lowered."""


class BlockShape(Protocol):
    """Which values of a tensor share a scale."""

    @property
    def whole(self) -> bool:
        """Whether all of a tensor do."""

    def amax(self, x: Tensor) -> Tensor:
        """The largest |x| of each block, float32 or float64; NaN where one is in it, 0 where it is empty."""

    @property
    def spans_rows(self) -> bool:
        """Whether every block holds values of all rows."""

    def cuts(self, rows: int) -> bool:
        """Whether a block holds values of the first so many rows of a tensor and of the next one."""

    @property
    def turned(self) -> BlockShape:
        """The same blocks where a product reduces over the rows; itself where that is no difference."""

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale of each value of a tensor of this shape, as what broadcasts with it."""

    def aligned(self, x: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Views of tensor and scales that broadcast with as little copying as may be."""


class WholeTensor:
    """One scale for all values."""

    whole = True
    spans_rows = True

    def cuts(self, rows: int) -> bool:
        """False: what the block holds of others is asked for, not cut off."""
        return False

    @property
    def turned(self) -> WholeTensor:
        """Itself."""
        return self

    def amax(self, x: Tensor) -> Tensor:
        """0-d."""
        if x.numel() == 0:
            return torch.zeros((), dtype=torch.float64, device=x.device)
        low, high = torch.aminmax(x)
        return torch.maximum(-low, high).double()

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale itself."""
        return scales

    def aligned(self, x: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        return x, scales


@dataclass(frozen=True, slots=True)
class Tiles:
    """A scale for ``rows`` by ``columns`` values of a tensor as a matrix; None means all of them.

    The last dimension lies along, all others down. At the ends a tile is as large as it comes out.
    """

    rows: int | None
    columns: int | None
    whole = False

    @property
    def spans_rows(self) -> bool:
        """Whether no number of rows ends a block."""
        return self.rows is None

    def cuts(self, rows: int) -> bool:
        """Where they are no whole number of blocks."""
        return self.rows is not None and rows % self.rows != 0

    @property
    def turned(self) -> Tiles:
        """The tiles of the transposed matrix."""
        return self if self.rows == self.columns else Tiles(self.columns, self.rows)

    def amax(self, x: Tensor) -> Tensor:
        """(tiles down, tiles along)."""
        height, width, down, along = self._sizes(x.shape)
        return tile_amax(x.reshape(height, width), down, along)

    def spread(self, scales: Tensor, shape: Sequence[int]) -> Tensor:
        """Of ``shape``, or with 1 where all along or down share a scale."""
        height, width, down, along = self._sizes(shape)
        if self.columns is None and self.rows == 1:
            return scales.view(*shape[:-1], 1)
        if self.rows is None and self.columns == 1:
            return scales.view(*[1] * (len(shape) - 1), width)
        tall, wide = scales.shape
        each = scales.view(tall, 1, wide, 1).expand(tall, down, wide, along)
        return each.reshape(tall * down, wide * along)[:height, :width].reshape(shape)

    def aligned(self, x: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """A view of ``x`` and one of its scales that broadcast, where no tile is cut; else as ``spread``."""
        height, width, down, along = self._sizes(x.shape)
        if height % down or width % along or not x.is_contiguous():
            return x, self.spread(scales, x.shape)
        tall, wide = scales.shape
        return x.view(tall, down, wide, along), scales.view(tall, 1, wide, 1)

    def _sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        height, width = math.prod(shape[:-1]), shape[-1] if shape else 1
        return height, width, self.rows or max(height, 1), self.columns or max(width, 1)


def block_shape(block: BlockSpec) -> BlockShape:
    """What the @ of a format's name asks for."""
    return WholeTensor() if block.whole else Tiles(block.rows, block.columns)


UNSCALED = torch.ones((), dtype=torch.float64)
"""The scale of the recipe ``none``, whatever the blocks."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What a tensor is rounded onto, and how its scales come about."""

    element: FP8Format
    block: BlockShape
    power_of_two: bool
    """Whether scales that the element's name leaves open are rounded up to a power of two; else exact."""
    recipe: Recipe | Literal["stored"]
    """``none``: 1; ``amax``: from the tensor; ``delayed``: from those before it; ``stored``: of weights that
    stay on the grid, kept as long as they fit."""
    margin: float = 1.0
    """By which a scale is widened."""

    def scales(self, x: Tensor, among: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The scales of ``x`` by its own largest finite magnitudes; nothing waits for a device.

        Where ``x`` is some rows of a tensor, ``among`` gives the largest magnitudes of blocks that span all.
        """
        if self.recipe == "none":
            return UNSCALED
        x = x.detach()
        amax = self.block.amax(x if x.device.type == "cpu" else finite_part(x))
        if x.device.type == "cpu" and amax.numel() and not math.isfinite(float(amax.max())):
            amax = self.block.amax(finite_part(x))
        if among is not None and self.block.spans_rows:
            amax = among(amax)
        if amax.dim() or self.element.block.scale is not None or x.device.type != "cpu":
            return self.scales_of(amax)
        # One number, where it costs least: a tensor operation takes longer than all of this arithmetic.
        scale = compute_scale(float(amax), self.element)
        scale = round_up_to_power_of_two(scale) if self.power_of_two else scale
        return torch.tensor(scale * self.margin, dtype=torch.float64)

    def scales_of(self, amax: Tensor) -> Tensor:
        """The scales of blocks with these finite largest magnitudes."""
        if self.element.block.scale is not None:
            return named_scales(amax, self.element, self.margin)
        maximum = self.element.max_representable_value
        return scales_of_amax(amax.double(), maximum, power_of_two=self.power_of_two, margin=self.margin)

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

    def round(self, x: Tensor, scales: Tensor, *, out: Tensor | None = None, **options: Any) -> Tensor:
        """``round_to_grid`` with each value divided by the scale of its block."""
        if not scales.dim():
            return round_to_grid(x, self.element, scales, out=out, **options)
        view, scale = self.block.aligned(x, scales)
        if out is None or not out.is_contiguous():
            rounded = round_to_grid(view, self.element, scale, **options).view(x.shape)
            return rounded if out is None else out.copy_(rounded)
        round_to_grid(view, self.element, scale, out=out.view(view.shape), **options)
        return out

    def round_for_both(
        self,
        x: Tensor,
        scales: Tensor,
        second: Tensor | None,
        *,
        out: Tensor | None = None,
        stats: Tensor | None = None,
        among: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """``round``, and the same for the product that reduces over the rows, with scales of its own.

        That product takes ``second``, most often x itself; None: there is none. One tensor twice where it
        takes x and the blocks are alike both ways. ``out`` and ``stats`` are of the first;
        ``among`` is as for ``scales``.
        """
        rounded, turned = self.round(x, scales, out=out, stats=stats, **options), self.turned
        if second is None or (second is x and turned is self):
            return rounded, rounded
        return rounded, turned.round(second, turned.scales(second, among), **options)

    @property
    def turned(self) -> Grid:
        """The grid for a product that reduces over the rows; itself where the blocks are alike both ways."""
        block = self.block.turned
        return self if block is self.block else replace(self, block=block)


@lru_cache(maxsize=256)
def operand_grid(
    format: FP8Format, recipe: Recipe, *, power_of_two: bool = True, margin: float = 1.0
) -> Grid:
    """The grid of an operand of a product."""
    return Grid(format, block_shape(format.block), power_of_two, recipe, margin)


@lru_cache(maxsize=256)
def stored_grid(format: FP8Format) -> Grid:
    """The grid of weights that are stored on it: its scales are powers of two, whatever the name says."""
    return Grid(format, block_shape(format.block), True, "stored")
