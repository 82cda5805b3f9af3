"""Lion: the sign of an interpolated momentum, so every weight moves by the learning rate exactly.

    u = sign(beta1 m + (1 - beta1) g)     w <- w (1 - rate decay) - rate u     m <- beta2 m + (1 - beta2) g

With m = 1, g = -1, betas .9 and .99: u = sign(.8) = 1, w loses the rate, m becomes .98.
(Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, program 1)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.updates.rule import ElementwiseRule


class Lion(ElementwiseRule):
    """Lion on all parameters, its decay on the matrices only. 32 bits a weight."""

    names = ("m",)

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
        """One step, into ``out``. A weight whose m and gradient are 0 only decays."""
        beta1, beta2 = self._optimizer.betas
        direction = torch.lerp(slots[0], gradient, 1 - beta1).sign_()
        torch.mul(parameters, 1 - learning_rate * weight_decay, out=out[0])
        out[0].add_(direction, alpha=-learning_rate)
        torch.lerp(slots[0], gradient, 1 - beta2, out=out[1])
