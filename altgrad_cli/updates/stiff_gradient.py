"""The gradient times the stiffness S(w) of each weight, before the base rule sees it.

S(w) is the gap of the grid at w (``metrics.weights.grid``): the study's manifold-aware step as written
(MANI-02), where NaN counts as 1 and S is at most 10^6. Under Adam it does next to nothing: while S stays the
same, m becomes S m and sqrt(v) becomes S sqrt(v), and their quotient is what it was, but for eps. Only a
weight that crosses a power of two feels it. Under SGD a weight's learning rate becomes rate * S(w).
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.metrics.weights.grid import stiffness
from altgrad_cli.updates.rule import PlacedOn, Proposal, Wrapper

LARGEST_STIFFNESS = 1e6


class StiffGradient(Wrapper):
    """The base rule on a gradient in codes. It adds no bits to the base's."""

    @torch.no_grad()
    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``; all but the blocks' linear weights follow the base rule."""
        flat = self._flat
        if start < flat.linear_end:
            gradient = gradient.clone()
            views = zip(flat.linear_views(gradient), flat.linear_views(flat.values), strict=True)
            for layer, (view, weights) in enumerate(views):
                grid, scales = placed_on(layer)
                field = stiffness(weights, grid.element, grid.spread(scales, weights.shape))
                view.mul_(field.nan_to_num_(nan=1.0).clamp_(max=LARGEST_STIFFNESS))
        return self._base.propose(gradient, learning_rate, placed_on, start)
