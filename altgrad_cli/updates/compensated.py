"""What rounding took from a weight is kept beside it and given back with the next update.

    w' = Q(w + dw + c)     c' = (w + dw + c) - w'

On a grid of whole numbers, with w = 3, c = 0 and dw = .4 at every step: 3.4 is stored as 3 and c becomes .4;
then 3 + .4 + .4 = 3.8 is stored as 4, c = -.2. After five steps w is 5, where without c it would still be 3.
c may be kept on a format of its own, with a power-of-two scale a tensor; what that rounding takes is lost.
(Kahan, Pracniques: further remarks on reducing truncation errors, CACM 1965; Zamirai et al., Revisiting
BFloat16 Training, arXiv:2010.06192, algorithm 3)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.config.limits import FLOAT32_WORDS
from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.updates.flat import FlatParameters
from altgrad_cli.updates.rule import ElementwiseRule, PlacedOn, Proposal, Wrapper

RESIDUAL = "residual"


class Compensated(Wrapper):
    """The base rule with a residual in ``optimizer.residual``. It adds that format's bits to the base's."""

    def __init__(self, base: ElementwiseRule, optimizer: OptimizerConfig, flat: FlatParameters) -> None:
        super().__init__(base, optimizer, flat)
        self._residual = torch.zeros_like(flat.values)
        name = optimizer.residual
        self._format = None if name.lower() in FLOAT32_WORDS else parse_format(name)

    @property
    def slots(self) -> dict[str, Tensor]:
        """The base's, and what rounding took from each weight."""
        return self._base.slots | {RESIDUAL: self._residual}

    @torch.no_grad()
    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``: the base's w + dw, and the residual."""
        proposal = self._base.propose(gradient, learning_rate, placed_on, start)
        proposal.parameters[start:].add_(self._residual[start:])
        return proposal

    @torch.no_grad()
    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``; the new residual is what ``stored`` lacks."""
        self._base.commit(proposal, stored)
        self._residual = proposal.parameters - stored
        if self._format is not None:
            grid = operand_grid(self._format, "none" if self._format.width > 8 else "amax")
            for view in self._flat.linear_views(self._residual):
                grid.round(view, grid.scales(view), out=view)
