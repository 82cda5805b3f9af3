"""Outliers spread over their neighbours before a rounding, by a product that leaves dW = G^T X as it was.

H is a Hadamard matrix with signs drawn once for all runs and layers, divided by the root of its size: it is
orthogonal, so (H G)^T (H X) = G^T X, while an outlier of G becomes ``size`` values of a fraction of it: of
one 8 among 15 zeros, 16 values of magnitude 2. The largest of a block falls, and so does what rounds to zero
beside it; an outlier that was on the grid is so no longer.

Source: the random Hadamard transform of NVFP4 training, NVIDIA (arXiv 2509.25149): 16 tokens at a time, of
both operands of the weight gradient and of no other product.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def mixing_matrix(size: int, device: torch.device) -> Tensor:
    """H, (size, size) float32, for a power of two."""
    with torch.inference_mode(False), torch.no_grad():
        matrix = torch.ones(1, 1)
        while len(matrix) < size:
            matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
        signs = torch.randint(2, (size,), generator=torch.Generator().manual_seed(size)) * 2 - 1
        return (matrix * signs / math.sqrt(size)).to(device)


def mixed(x: Tensor, size: int) -> Tensor:
    """H times every ``size`` rows of ``x`` as a matrix of rows along its last dimension, in x's shape.

    Rows that are left over at the end stay as they are.
    """
    rows = x.reshape(-1, x.shape[-1])
    whole = len(rows) - len(rows) % size
    parts = rows[:whole].view(-1, size, x.shape[-1])
    spread = torch.matmul(mixing_matrix(size, x.device), parts).view(whole, x.shape[-1])
    return torch.cat((spread, rows[whole:])).view(x.shape)
