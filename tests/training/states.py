"""What the tests of a single step share: a batch, and a step without the engine around it."""

from __future__ import annotations

import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.gpt.text_subject import gpt_subject
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.training.passes.eager import PassResult
from altgrad_cli.training.state import TrainState, build_state
from altgrad_cli.training.step import commit_step, compute_step
from altgrad_cli.training.update import CandidateUpdate

VOCABULARY = 256


def gpt_state(config: TrainConfig, vocabulary: int = VOCABULARY) -> TrainState:
    """The GPT of ``config`` before its first step, without data."""
    return build_state(config, gpt_subject(config, vocabulary))


def random_batch(seed: int = 1, *, rows: int = 4, block: int = 16, vocabulary: int = VOCABULARY) -> Batch:
    """Uniform tokens, shape (rows, block)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (rows, block + 1), generator=generator)
    return Batch(x=tokens[:, :-1].contiguous(), y=tokens[:, 1:].contiguous(), offsets=tuple(range(rows)))


def take_step(
    state: TrainState, seed: int = 1, learning_rate: float = 1e-3
) -> tuple[PassResult, CandidateUpdate]:
    """One step as the engine takes it, on a random batch."""
    step = compute_step(state, random_batch(seed), learning_rate=learning_rate)
    assert step.update is not None and step.finite
    commit_step(state, step)
    return step.result, step.update
