"""Batches of next-token pairs, drawn by a private generator and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from altgrad_cli.subjects.subject import Batch


def draw_batch(tokens: np.ndarray, batch_size: int, block_size: int, generator: torch.Generator) -> Batch:
    """A batch at uniformly drawn offsets; two generators in equal states draw equal batches.

    The draw is one call on the CPU generator, so it depends on neither the device nor the precision
    of the run: every arm of a sweep with one seed sees the same batches.
    """
    last = len(tokens) - block_size  # offsets 0 .. last - 1, since y needs one token more
    offsets = torch.randint(last, (batch_size,), generator=generator).tolist()
    return batch_at(tokens, offsets, block_size)


def batch_at(tokens: np.ndarray, offsets: Sequence[int], block_size: int) -> Batch:
    """The batch whose rows start at ``offsets``: how a recorded batch is replayed."""
    windows = np.stack([tokens[offset : offset + block_size + 1] for offset in offsets])
    pairs = torch.from_numpy(windows.astype(np.int64))  # (batch, block + 1)
    return Batch(x=pairs[:, :-1].contiguous(), y=pairs[:, 1:].contiguous(), offsets=tuple(offsets))
