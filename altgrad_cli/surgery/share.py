"""The part of a batch that one of several ranks takes, and what makes its roundings those of the whole batch.

A rank sees some rows of every activation and gradient. Three things of a rounding reach beyond them: the
largest magnitude behind a scale, which is asked of all ranks; the random bits of a value, which follow from
its place in the whole tensor; and blocks of rows, none of which may lie across two ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.rounding.grid import Grid


@dataclass(frozen=True, slots=True)
class Share:
    """Part ``number`` of ``count`` equal ones along the first dimension of every tensor but the weights."""

    number: int
    count: int
    largest: Callable[[Tensor], Tensor]
    """The largest values, entry by entry, of what all parts give; each must call it, in the same order."""

    def first_of(self, x: Tensor) -> int:
        """Flat index of the first value of ``x`` in the whole tensor."""
        return self.number * x.numel()

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """This part of the noise of the whole tensor, whose part is of ``shape``."""
        rows = shape[0]
        whole = torch.rand((self.count * rows, *shape[1:]), generator=generator, device=generator.device)
        return whole[self.number * rows : (self.number + 1) * rows]

    def check(self, grids: Sequence[Grid], tokens: int | None, shape: Sequence[int]) -> None:
        """See that no block of rows of a tensor of ``shape``, nor a mix of ``tokens`` rows, is cut.

        Raises:
            UsageError: one would lie across two ranks.
        """
        height = math.prod(shape[:-1])
        names = [grid.element.name for grid in grids if grid.block.cuts(height)]
        if tokens is not None and height % tokens:
            names.append(f"precision.hadamard={tokens}")
        if names:
            raise UsageError(
                f"{height} rows a rank cut a block of {names[0]}, which would lie across two ranks",
                where="batch_size",
                allowed="a batch whose share for each rank holds whole blocks",
                hint="take fewer ranks or a larger batch",
            )
