"""Stochastic rounding and the random bits it consumes.

A value between two neighbours goes away from zero with the probability of its place between them: the
place f in [0, 1) and a random number u, a multiple of 2^-``STOCHASTIC_BITS``, are added in float32, and a
carry moves the value. With 24 bits for each, 2.3 becomes 2 + carry(0.3 + u), that is 3 in 30 % of the draws.
This is gfloat's ``RoundMode.StochasticFast`` on 24 bits; a value of the grid never moves, and the mean is the
value itself to within 2^-25 of a gap, so an update of 2^-24 of a gap still has its chance.

The bits are a hash of a key and of the value's flat index. The key is drawn from a ``torch.Generator`` once
a tensor, so a saved generator gives the rounding again, and slices, threads, devices and the compiled form
all give the same bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from altgrad_cli.rounding.scratch import SLICE, constant

STOCHASTIC_BITS = 24
"""Random bits a value consumes: as many as a float32 below 1 can hold without being rounded itself."""

Key = tuple[int, int]

# lowbias32 by Chris Wellons (hash-prospector, public domain): two rounds of xor-shift and multiply; the
# third xor-shift is replaced by reading the upper bits. The index is spread first by a Weyl constant.
_WEYL = 0x9E3779B1


def _signed(value: int) -> int:
    """``value`` modulo 2^32 as a signed 32-bit integer."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


_MIXING = (0xFFFF, 0x1FFFF, (1 << STOCHASTIC_BITS) - 1, 0x7FEB352D, _signed(0x846CA68B), 15, 16, 8)


def draw_key(generator: torch.Generator | None) -> Key:
    """64 random bits from ``generator`` (on the CPU; None: torch's default stream), as two int32 numbers."""
    first, second = torch.randint(-(1 << 31), 1 << 31, (2,), generator=generator).tolist()
    return first, second


@lru_cache(maxsize=8)
def _spread_indices(count: int, device: torch.device) -> Tensor:
    """i * _WEYL mod 2^32 for i in range(count), int32."""
    with torch.inference_mode(False):
        return _spread(torch.arange(count, dtype=torch.int32, device=device))


def _spread(index: Tensor) -> Tensor:
    return index * _signed(_WEYL)


def advanced(key: Key, first: int) -> Key:
    """The key that gives the indices from 0 on the bits that ``key`` gives those from ``first`` on."""
    return _signed(first * _WEYL + key[0]), key[1]


def random_bits(key: Key, out: Tensor, scratch: Tensor) -> Tensor:
    """Uniform integers in [0, 2^24) for the flat indices from 0 on, into int32 ``out``; eager."""
    count = out.numel()
    spread = _spread_indices(max(count, SLICE), out.device)[:count]
    torch.add(spread, _signed(key[0]), out=out)
    return _mix(out, scratch, key[1], *(constant(value, torch.int32) for value in _MIXING))


def random_bits_traced(count: int, key: Tensor, device: torch.device) -> Tensor:
    """The same for indices from 0 on and an int32 ``key`` of two, for torch.compile to fuse."""
    bits = _spread(torch.arange(count, dtype=torch.int32, device=device)) + key[0]
    return _mix(bits, torch.empty_like(bits), key[1], *_MIXING)


def _mix(h: Tensor, scratch: Tensor, key: int | Tensor, *constants: Any) -> Tensor:
    low_16, low_17, low_24, first, second, shift_15, shift_16, shift_8 = constants
    # int32 has no logical shift on every device: shift with the sign, then mask it off.
    torch.bitwise_right_shift(h, shift_16, out=scratch).bitwise_and_(low_16)
    h.bitwise_xor_(scratch).mul_(first).bitwise_xor_(key)
    torch.bitwise_right_shift(h, shift_15, out=scratch).bitwise_and_(low_17)
    h.bitwise_xor_(scratch).mul_(second)
    return h.bitwise_right_shift_(shift_8).bitwise_and_(low_24)


class RandomWork(NamedTuple):
    """The random bits of a slice and buffers of its size; ``sign`` may share the bits' memory."""

    bits: Tensor  # int32 in [0, 2^24)
    noise: Tensor  # float32
    whole: Tensor  # float32
    sign: Tensor  # int32


def round_stochastically(k: Tensor, out: Tensor, random: RandomWork, *, bounded: bool) -> None:
    """Round the float32 quotients ``k`` to integers, into ``out`` (which may be k).

    ``bounded`` says that no |k| is inf; else what lies beyond 2^23 becomes that, further out than any grid.
    """
    bits, noise, whole, sign = random
    noise.copy_(bits)
    torch.bitwise_and(k.view(torch.int32), torch.iinfo(torch.int32).min, out=sign)
    torch.abs(k, out=out)
    if not bounded:
        out.clamp_max_(2.0**23)  # inf has no place between neighbours
    torch.floor(out, out=whole)
    out.sub_(whole).add_(noise, alpha=2.0**-STOCHASTIC_BITS).floor_().add_(whole)
    out.view(torch.int32).bitwise_or_(sign)  # away from zero on both sides; keeps -0
