"""AdamW that computes a candidate beside the state instead of overwriting it.

torch.optim.AdamW updates in place, but here an update is computed, checked, measured and only then
committed; so that a step can be dropped, replayed or varied without a copy of the state. The arithmetic is
torch's, operation for operation, and a test holds the two bit for bit equal.
(Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101)
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.updates.flat import FlatParameters
from altgrad_cli.updates.rule import Proposal

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


class AdamW:
    """AdamW on all parameters, its decay on the matrices only. 64 bits a weight."""

    nonnegative: tuple[str, ...] = ("v",)

    def __init__(self, optimizer: OptimizerConfig, flat: FlatParameters) -> None:
        self._optimizer, self._flat = optimizer, flat
        self.slots = {name: torch.zeros_like(flat.values) for name in ("m", "v")}
        self.steps = 0

    def propose(self, gradient: Tensor, learning_rate: float, start: int = 0) -> Proposal:
        flat, optimizer = self._flat, self._optimizer
        before = (flat.values, *self.slots.values())
        after = [torch.empty_like(tensor) for tensor in before]
        for new, old in zip(after, before, strict=True):
            new[:start].copy_(old[:start])
        for part, decay in (
            (slice(start, flat.matrix_end), optimizer.weight_decay),
            (slice(flat.matrix_end, flat.bounds[-1]), 0.0),
        ):
            values, m, v = (tensor[part] for tensor in before)
            adamw_candidate(
                values,
                gradient[part],
                m,
                v,
                (after[0][part], after[1][part], after[2][part]),
                step=self.steps + 1,
                learning_rate=learning_rate,
                betas=optimizer.betas,
                eps=optimizer.eps,
                weight_decay=decay,
            )
        return Proposal(after[0], dict(zip(self.slots, after[1:], strict=True)))

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        self.slots = proposal.slots
        self.steps += 1
