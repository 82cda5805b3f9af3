"""Steps in the coordinates of the grid: so many codes, or so many octaves, and not so much weight.

AdamW's direction u = m / (sqrt(v) / correction + eps), bias-corrected, is about as large for every weight;
eta is ``optimizer.geometric_rate`` times the learning rate. All but the blocks' linear weights follow AdamW.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.updates.rule import PlacedOn, Proposal, Wrapper


class CodeStep(Wrapper):
    """A weight moves by eta u codes (ULPs) of its grid, at most ``optimizer.max_codes``; no decay.

    The move ends between two codes, and stochastic rounding takes one of them with the probability of its
    place: a step of .3 codes is a whole code in 30 % of the draws. Zero and sign crossings walk through the
    subnormals like any code. Weights in float32 move by the same way and are not rounded.
    (The study's "rung" optimizer; the intent behind MANI-02.) It adds no bits to AdamW's.
    """

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
                spread = grid.spread(scales, weights.shape)
                after.copy_(moved_by_codes(weights, step, grid.element, spread))
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


@lru_cache(maxsize=32)
def _numbers(format: FP8Format, device: torch.device) -> Tensor:
    """The finite values of the grid, each once, ascending, float64."""
    positive = [format.to_real(code) for code in range(1, format.max_code + 1)]
    values = [*(-value for value in reversed(positive)), 0.0, *positive]
    return torch.tensor(values, dtype=torch.float64, device=device)


def moved_by_codes(weights: Tensor, codes: Tensor, format: FP8Format, scale: Tensor) -> Tensor:
    """The values ``codes`` (real numbers) grid points further up, linear between grid points; float32.

    On whole numbers 3 moved by .3 codes is 3.3; on the powers of two of E7M0, 4 moved by .25 is 5 and by 1.5
    is 12. Beyond the ends the last gap goes on, so that a scale can follow. NaN in either stays NaN.
    The result is rounded to float32: to within 2^(M - 24) of a gap.
    """
    numbers = _numbers(format, weights.device)
    last = numbers.numel() - 2
    x = weights.double() / scale
    below = (torch.searchsorted(numbers, x, right=True) - 1).clamp_(0, last)
    place = below + (x - numbers[below]) / (numbers[below + 1] - numbers[below]) + codes
    below = place.nan_to_num(nan=0.0).floor_().clamp_(0, last).long()
    low = numbers[below]
    return ((low + (place - below) * (numbers[below + 1] - low)) * scale).float()
