"""SGD with momentum, as torch.optim.SGD has it: b <- beta1 b + g + decay w, w <- w - rate b.

Decay is part of the gradient here, and not decoupled as in AdamW. A test holds the two bit for bit equal.
(Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.updates.rule import ElementwiseRule, Proposal


class SGD(ElementwiseRule):
    """SGD whose momentum is ``optimizer.betas[0]``. 32 bits a weight."""

    names = ("momentum",)

    @torch.no_grad()
    def candidate(
        self,
        parameters: Tensor,
        gradient: Tensor,
        slots: list[Tensor],
        out: list[Tensor],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """One step, into ``out``."""
        decayed = gradient if weight_decay == 0 else gradient.add(parameters, alpha=weight_decay)
        if self.steps == 0:  # torch starts the buffer with the first gradient itself
            out[1].copy_(decayed)
        else:
            torch.mul(slots[0], self._optimizer.betas[0], out=out[1]).add_(decayed)
        torch.add(parameters, out[1], alpha=-learning_rate, out=out[0])

    def gain(self, proposal: Proposal) -> float:
        """The learning rate."""
        return proposal.learning_rate
