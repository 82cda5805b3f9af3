"""What rounding in blocks is tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def wild(seed: int, shape: Sequence[int], *, exponents: tuple[int, int] = (-140, 120)) -> Tensor:
    """Lines of normal values at magnitudes of their own; heavy tails; zeros, subnormals, nan and inf."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(math.prod(shape), generator=generator).view(-1, shape[-1])
    low, high = exponents
    x *= torch.exp2(torch.randint(low, high, (len(x), 1), generator=generator).double()).float()
    tail = torch.empty_like(x[::3]).exponential_(0.2, generator=generator)
    x[::3] *= torch.exp2(-tail)
    x[1::7] = torch.exp2(torch.randint(-149, -120, x[1::7].shape, generator=generator).double()).float()
    x[2::7, ::2] = 0.0
    x.view(-1)[4::97] = -0.0
    x.view(-1)[5::61] = math.nan
    x.view(-1)[6::53] = math.inf
    x.view(-1)[7::67] = -math.inf
    return x.view(*shape)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one; nan equals nan."""
    if a.shape != b.shape:
        return False
    if a.dtype != torch.float32:
        return torch.equal(a, b)
    a, b = a.contiguous(), b.contiguous()
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())
