"""Which codes operands and stored weights use: whole histograms, on diagnostic steps only."""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES, ROLES, Role
from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.rounding import grid_histograms
from altgrad_cli.rounding.codes import code_histogram
from altgrad_cli.rounding.grid import Grid
from altgrad_cli.training.parallel.ranks import Ranks
from altgrad_cli.training.state import TrainState


class CodeCensus:
    """Counts the codes of every tensor on a grid of at most 8 bits: operands as the observer of a pass."""

    def __init__(self, state: TrainState) -> None:
        self._layers = len(state.layers)
        self._counts: dict[tuple[int, Role], Tensor] = {}

    def __call__(self, layer: int, role: int, x: Tensor, grid: Grid, scales: Tensor) -> None:
        if grid.element.width <= 8:
            counts = code_histogram(x, grid.element, grid.spread(scales, x.shape))
            self._counts[layer, OPERAND_ROLES[role]] = counts

    def add_up(self, ranks: Ranks) -> None:
        """Make the counts of operands those of the whole batch; weights are the same on every rank."""
        for (layer, role), counts in self._counts.items():
            if role in ("activations", "gradients"):
                self._counts[layer, role] = torch.stack(ranks.gathered(counts)).sum(0)

    def count_stored(self, layer: int, weights: Tensor, fmt: FP8Format, scale: Tensor) -> None:
        """Count the codes of a layer's stored weights, which are on the grid already."""
        if fmt.width <= 8:
            self._counts[layer, "stored_weights"] = grid_histograms([weights], fmt, [scale])[0]

    def histograms(self) -> dict[str, list[list[int]]]:
        """Per role the counts of each layer by code, the NaN bin last; an empty list where none was taken."""
        found: dict[str, list[list[int]]] = {}
        for role in ROLES:
            if any(key[1] == role for key in self._counts):
                rows = [self._counts.get((layer, role)) for layer in range(self._layers)]
                found[role] = [[] if row is None else row.tolist() for row in rows]
        return found
