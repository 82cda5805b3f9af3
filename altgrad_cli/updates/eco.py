"""What rounding took from a weight goes back into the momentum: error feedback without memory of its own.

A unit of momentum moves a weight by -gain, this step and, times beta, at every later one. So

    e = (w + dw) - w'         m <- m + (1 - 1/beta) e / gain

moves the weight by (1 - beta) (1 + beta + beta^2 + ...) e = e in the long run. With beta = .9, gain = .1 and
e = .01: m changes by (1 - 1/.9) .01 / .1 = -.0111, and the next step adds .9 * .0111 * .1 = .001, or e / 10.
For SGD the gain is the learning rate; for AdamW it is step size / (sqrt(v) / correction + eps) of this step.
(Nikdan et al., ECO: Quantized Training without Full-Precision Master Weights, arXiv:2601.22101)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.updates.rule import Proposal, Wrapper


class ECO(Wrapper):
    """AdamW or SGD with the error in its momentum. It adds no bits to the base's."""

    @torch.no_grad()
    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``. A step at rate 0 has no gain: what its rounding took is lost."""
        if proposal.learning_rate > 0:
            momentum = next(iter(proposal.slots.values()))
            error = (proposal.parameters - stored).div_(self._base.gain(proposal))
            momentum.add_(error, alpha=1 - 1 / self._optimizer.betas[0])
        self._base.commit(proposal, stored)
