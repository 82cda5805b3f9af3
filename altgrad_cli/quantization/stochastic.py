"""Stochastic rounding and the random bits it consumes.

A value between two neighbours goes away from zero with the probability of its place between them: the
place is rounded to ``STOCHASTIC_BITS`` bits (ties to even), the random bits are added, and a carry moves it.
This is gfloat's ``RoundMode.Stochastic``; a value of the grid never moves, and the mean is the value itself
to within 2^-17 of a gap.
"""

from __future__ import annotations

import torch
from torch import Tensor

STOCHASTIC_BITS = 16
"""Random bits a value consumes."""


def round_stochastically(k: Tensor, out: Tensor, bits: Tensor) -> None:
    """Round the float quotients ``k`` into ``out`` to integers, using ``bits`` (int32 in [0, 2^16))."""
    # Quotients beyond a format's maximum, which overflow anyway, must fit the integer type.
    magnitude = k.abs().clamp_max_(2.0**20).mul_(2.0**STOCHASTIC_BITS).round_()
    integer = magnitude.to(torch.int64).add_(bits).bitwise_right_shift_(STOCHASTIC_BITS)
    rounded = torch.where(torch.isnan(k), k, integer.to(k.dtype))
    out.copy_(rounded.copysign_(k))


def draw_bits(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """``count`` uniform integers in [0, 2^16), int32, from ``generator``."""
    return torch.randint(
        0, 1 << STOCHASTIC_BITS, (count,), generator=generator, dtype=torch.int32, device=device
    )
