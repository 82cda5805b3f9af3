"""AdamW that computes a candidate beside the state instead of overwriting it.

torch.optim.AdamW updates in place, but here an update is computed, checked, measured and only then
committed; so that a step can be dropped, replayed or varied without a copy of the state. The arithmetic is
torch's, operation for operation, and a test holds the two bit for bit equal.
(Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdamState:
    """First and second moment, flat and aligned with the parameters, float32."""

    m: Tensor
    v: Tensor

    @classmethod
    def zeros_like(cls, parameters: Tensor) -> AdamState:
        """The state before the first step."""
        return cls(torch.zeros_like(parameters), torch.zeros_like(parameters))


# A slice stays in cache through all the passes, and is long enough for every thread to gain; on other devices
# one slice is the whole.
_CPU_SLICE = 1 << 18


@torch.no_grad()
def adamw_candidate(
    parameters: Tensor,
    gradient: Tensor,
    state: AdamState,
    out_parameters: Tensor,
    out_state: AdamState,
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Write parameters and moments after AdamW step number ``step`` (from 1) into the ``out`` tensors.

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
        p, g, denominator = out_parameters[part], gradient[part], scratch[: part.stop - start]
        m, v = out_state.m[part], out_state.v[part]
        torch.mul(parameters[part], 1 - learning_rate * weight_decay, out=p)
        torch.lerp(state.m[part], g, 1 - beta1, out=m)
        torch.mul(state.v[part], beta2, out=v)
        v.addcmul_(g, g, value=1 - beta2)
        torch.sqrt(v, out=denominator)
        denominator.div_(correction).add_(eps)
        p.addcdiv_(m, denominator, value=-step_size)
