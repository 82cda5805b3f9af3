"""Exact counts on float tensors, as fast as a plain pass.

A comparison written into a float tensor (1.0 where true) runs about five times faster on a CPU than one
written into a bool tensor, and its sum is exact as long as it stays below 2^24.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EXACT_IN_FLOAT32 = 1 << 24


def count(mask: Tensor) -> Tensor:
    """Number of ones in a tensor of zeros and ones, 0-d, in the mask's type; rounded once beyond 2^24."""
    if mask.numel() < _EXACT_IN_FLOAT32:
        return mask.sum()
    return mask.sum(dim=-1).sum(dtype=torch.float64).to(mask.dtype)


def count_both(a: Tensor, b: Tensor) -> Tensor:
    """Number of places where both masks are one, 0-d, in the mask's type; rounded once beyond 2^24."""
    if a.numel() < _EXACT_IN_FLOAT32:
        return torch.dot(a.view(-1), b.view(-1))
    return count(a * b)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over all elements, 0-d, in the tensors' own type. Non-finite values pass through."""
    return torch.dot(a.reshape(-1), b.reshape(-1))


def as_rows(x: Tensor) -> Tensor:
    """``x`` as a matrix, one row an output neuron: the first dimension stays, the others are flattened."""
    return x.reshape(x.shape[0], -1) if x.dim() else x.reshape(1, 1)


def scratch_like(tensors: list[Tensor]) -> Tensor:
    """A 1-D buffer as large as the largest tensor, reused layer after layer so that it stays in cache."""
    first = tensors[0]
    return torch.empty(max(t.numel() for t in tensors), dtype=first.dtype, device=first.device)


def table(rows: list[list[Tensor]]) -> Tensor:
    """0-d tensors, row by row, as one float64 tensor (rows, columns); no host synchronisation."""
    return torch.stack([value for row in rows for value in row]).to(torch.float64).view(len(rows), -1)
