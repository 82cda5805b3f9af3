"""AdamW that computes a candidate beside the state instead of overwriting it.

torch.optim.AdamW updates in place, but here an update is computed, checked, measured and only then
committed; so that a step can be dropped, replayed or varied without a copy of the state. The arithmetic is
torch's, operation for operation, and a test holds the two bit for bit equal.
(Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.updates.rule import ElementwiseRule, Proposal

# A slice stays in cache through all the passes, and is long enough for every thread to gain; on other devices
# one slice is the whole.
_CPU_SLICE = 1 << 18


@torch.no_grad()
def adamw_candidate(
    parameters: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    out: tuple[Tensor, Tensor, Tensor],
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Write parameters, m and v after AdamW step number ``step`` (from 1) into ``out``.

    All tensors are 1-D, float32 and of one length; inputs are not changed. NaN and inf pass through.
    """
    beta1, beta2 = betas
    step_size = learning_rate / (1 - beta1**step)
    correction = (1 - beta2**step) ** 0.5
    length = parameters.numel()
    stride = _CPU_SLICE if parameters.device.type == "cpu" else max(length, 1)
    scratch = torch.empty(min(stride, length), dtype=parameters.dtype, device=parameters.device)
    for start in range(0, length, stride):
        part = slice(start, min(start + stride, length))
        p, new_m, new_v = (tensor[part] for tensor in out)
        g, denominator = gradient[part], scratch[: part.stop - start]
        torch.mul(parameters[part], 1 - learning_rate * weight_decay, out=p)
        torch.lerp(m[part], g, 1 - beta1, out=new_m)
        torch.mul(v[part], beta2, out=new_v)
        new_v.addcmul_(g, g, value=1 - beta2)
        torch.sqrt(new_v, out=denominator)
        denominator.div_(correction).add_(eps)
        p.addcdiv_(new_m, denominator, value=-step_size)


class AdamW(ElementwiseRule):
    """AdamW on all parameters, its decay on the matrices only. 64 bits a weight."""

    names = ("m", "v")
    nonnegative = ("v",)

    def candidate(
        self,
        parameters: Tensor,
        gradient: Tensor,
        slots: list[Tensor],
        out: list[Tensor],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """As ``adamw_candidate``."""
        m, v = slots
        adamw_candidate(
            parameters,
            gradient,
            m,
            v,
            (out[0], out[1], out[2]),
            step=self.steps + 1,
            learning_rate=learning_rate,
            betas=self._optimizer.betas,
            eps=self._optimizer.eps,
            weight_decay=weight_decay,
        )

    def gain(self, proposal: Proposal) -> Tensor:
        """Step size / (sqrt(v) / correction + eps): w moves by -gain * m."""
        beta1, beta2 = self._optimizer.betas
        step = self.steps + 1
        denominator = proposal.slots["v"].sqrt().div_((1 - beta2**step) ** 0.5).add_(self._optimizer.eps)
        return proposal.learning_rate / (1 - beta1**step) / denominator
