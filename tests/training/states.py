"""What the tests of a single step share: a batch, and a step without the engine around it."""

from __future__ import annotations

import torch

from altgrad_cli.subjects.corpus.batches import Batch
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import StepResult, compute_step
from altgrad_cli.training.update import CandidateUpdate, candidate_update, commit, re_encode

VOCABULARY = 256


def random_batch(seed: int = 1, *, rows: int = 4, block: int = 16, vocabulary: int = VOCABULARY) -> Batch:
    """Uniform tokens, shape (rows, block)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (rows, block + 1), generator=generator)
    return Batch(x=tokens[:, :-1].contiguous(), y=tokens[:, 1:].contiguous(), offsets=tuple(range(rows)))


def take_step(
    state: TrainState, seed: int = 1, learning_rate: float = 1e-3
) -> tuple[StepResult, CandidateUpdate]:
    """Pass, candidate, re-encoding and commit, in the engine's order."""
    result = compute_step(state, random_batch(seed))
    update = candidate_update(state, result.gradient, learning_rate)
    assert update.finite
    re_encode(state, update)
    commit(state, update)
    assert result.stats is not None
    state.scales.update(result.stats[:, :, 0].tolist())
    state.streams.adopt_all(result.streams_after)
    state.step += 1
    return result, update
