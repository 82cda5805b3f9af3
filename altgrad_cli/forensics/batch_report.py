"""The batch of the step: its text, its loss sample by sample, and whether it is what the corpus holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.config.run import is_code
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.subjects.built_in import training_batch
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.precision_plan import PrecisionPlan, without_rounding
from altgrad_cli.training.in_use.calls import RecordedCalls
from altgrad_cli.training.passes.eager import deployed

_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a batch; losses in nats per token, or per label."""

    offset: int | None
    text: str | None
    loss: float
    loss_fp32: float


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The batch of the step."""

    origin: str
    offsets: tuple[int, ...]
    equals_corpus: bool | None
    """Whether the corpus holds these tokens (and labels) at these offsets; None where that cannot be told."""
    samples: tuple[Sample, ...]


def describe_batch(given: ReplayState) -> BatchReport | None:
    """The batch of the step, as text and in losses; None without a batch."""
    batch = given.batch
    if batch is None:
        return None
    if isinstance(batch, RecordedCalls):
        return BatchReport(given.batch_origin, (), None, ())
    rounded = sample_losses(given, batch, given.state.plan)
    exact = sample_losses(given, batch, without_rounding(given.state.plan))
    samples = tuple(
        Sample(
            offset=batch.offsets[row] if row < len(batch.offsets) else None,
            text=_text(given, batch.x[row]),
            loss=float(rounded[row]),
            loss_fp32=float(exact[row]),
        )
        for row in range(batch.x.shape[0])
    )
    return BatchReport(given.batch_origin, tuple(batch.offsets), _equals_corpus(given, batch), samples)


@torch.no_grad()
def sample_losses(given: ReplayState, batch: Batch, plan: PrecisionPlan) -> Tensor:
    """Mean loss of each row, (batch,), nats per token or label; operands to nearest, no dropout."""
    state = given.state
    with deployed(state, plan):
        losses = state.loss(batch, reduction="none")
    return losses.view(len(batch.y), -1).mean(dim=1).cpu()


def _equals_corpus(given: ReplayState, batch: Batch) -> bool | None:
    corpus = given.state.subject.corpus
    own = is_code(given.state.config.subject)
    if own or corpus is None or len(batch.offsets) != batch.x.shape[0]:
        return None
    held = training_batch(given.state.config, corpus, batch)
    return held is not None and torch.equal(held.x, batch.x) and torch.equal(held.y, batch.y)


def _text(given: ReplayState, row: Tensor) -> str | None:
    corpus = given.state.subject.corpus
    if is_code(given.state.config.subject) and (corpus is None or row.dtype != torch.int64):
        return None  # who knows what it is
    tokens = row[row >= 0]  # without padding
    if corpus is not None:
        text = corpus.decode(tokens.tolist())
    elif given.state.config.data.tokenizer == "bytes":
        text = bytes(int(token) for token in tokens).decode("utf-8", errors="replace")
    else:
        return None
    return text[:_SHOWN_CHARACTERS]
