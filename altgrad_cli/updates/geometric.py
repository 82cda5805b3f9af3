"""Steps in the coordinates of the grid: so many codes, or so many octaves, and not so much weight.

AdamW's direction u = m / (sqrt(v) / correction + eps), bias-corrected, is about as large for every weight;
eta is ``optimizer.geometric_rate`` times the learning rate. All but the blocks' linear weights follow AdamW.
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.metrics.weights.grid import stiffness
from altgrad_cli.updates.rule import PlacedOn, Proposal, Wrapper


class CodeStep(Wrapper):
    """A weight moves by eta u codes, each the gap S(w) of its grid (an ULP), ``max_codes`` at most.

    The move ends between two codes, and stochastic rounding takes one of them with the probability of its
    place: a step of .3 codes up is a whole code in 30 % of the draws. There is no decay. Weights in float32
    move by the gaps that they would have, and are not rounded. It adds no bits to AdamW's.
    (The study's steps in ULPs: dw = -eta S(w) u, the intent behind MANI-02 and its "rung" optimizer.)
    """

    # Moves by the index of the code, unbiased in codes, are not so in weights: on E7M0 a code up adds w, one
    # down takes w / 2, and by noise alone the weights grow. On law, at eta .1 and one seed, the largest
    # spectral norm of a layer went from 4 to 2,060 between steps 100 and 400.

    stochastic = True

    @torch.no_grad()
    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``."""
        flat, optimizer = self._flat, self._optimizer
        proposal = self._base.propose(gradient, learning_rate, placed_on, start)
        if start < flat.linear_end:
            codes = proposal.slots["m"] * self._base.gain(proposal)
            codes.mul_(-optimizer.geometric_rate).clamp_(-optimizer.max_codes, optimizer.max_codes)
            views = zip(*map(flat.linear_views, (flat.values, codes, proposal.parameters)), strict=True)
            for layer, (weights, step, after) in enumerate(views):
                grid, scales = placed_on(layer)
                gap = stiffness(weights, grid.element, grid.spread(scales, weights.shape))
                torch.addcmul(weights, step, gap, out=after)
        return proposal


class Madam(Wrapper):
    """log2|w| moves by -eta sign(w) g / (sqrt(v) / correction + eps) octaves, clamped; the sign stays.

    Without momentum, and without decay; a zero stays zero. The clamp is ``optimizer.max_codes`` octaves.
    (Zhao et al., LNS-Madam, arXiv:2106.13914, algorithm 1; Bernstein et al., arXiv:2006.14560.) Of AdamW's
    memory the blocks' linear weights need v only: 32 bits a weight.
    """

    @torch.no_grad()
    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``."""
        end, optimizer = self._flat.linear_end, self._optimizer
        proposal = self._base.propose(gradient, learning_rate, placed_on, start)
        if start < end:
            weights, beta2 = self._flat.values[:end], optimizer.betas[1]
            correction = (1 - beta2 ** (self.steps + 1)) ** 0.5
            size = proposal.slots["v"][:end].sqrt().div_(correction).add_(optimizer.eps)
            octaves = gradient[:end].div(size).mul_(torch.sign(weights))
            octaves.mul_(-optimizer.geometric_rate * learning_rate)
            octaves.clamp_(-optimizer.max_codes, optimizer.max_codes)
            torch.mul(weights, torch.exp2(octaves), out=proposal.parameters[:end])
        return proposal
