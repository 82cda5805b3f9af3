"""Whether the batches of a run can be shared by its ranks: asked of one, before the first step."""

from __future__ import annotations

import os

import torch

from altgrad_cli.config.run import is_code
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.training.passes.buffers import evaluating
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork

_AGREEING = 1e-4
"""Relative difference that two sums of the same float32 numbers never have."""


def check_shares(state: TrainState) -> None:
    """See that every rank has a device and as many rows as the others, and that losses can be averaged.

    Raises:
        UsageError: one or the other is not so.
    """
    ranks, draw = state.ranks, state.subject.train
    if ranks.alone or draw is None:
        return
    if state.config.runtime.parallel == "fsdp":
        raise ConfigError(
            "weights cannot be shared among ranks yet: the flat buffers of every measure hold whole weights",
            where="runtime.parallel",
            allowed="ddp",
            hint="use runtime.parallel=ddp: every rank keeps whole weights and shares the batch",
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if state.device.type == "cuda" and local > torch.cuda.device_count():
        raise UsageError(
            f"{local} ranks on this machine need {local} GPUs, and it has {torch.cuda.device_count()}",
            where="--nproc-per-node",
            allowed=f"1 to {torch.cuda.device_count()}",
            hint="start fewer ranks, or use --device cpu",
        )
    batch = draw(fork(state.streams["data"]))
    rows = len(batch.x)
    if rows % ranks.count:
        more = -(-rows // ranks.count) * ranks.count
        raise UsageError(
            f"{rows} rows of a batch cannot be shared by {ranks.count} ranks alike",
            where="batch_size",
            allowed=f"a multiple of {ranks.count}",
            hint=f"use batch_size={more}, or another --nproc-per-node",
        )
    if is_code(state.config.subject):
        _see_mean(state, ranks.rows(batch))


@torch.no_grad()
def _see_mean(state: TrainState, batch: Batch) -> None:
    """Of a user's loss: a target that counts less than others would count more on a rank that has few."""
    with evaluating(state.model):
        mean = float(state.loss(batch))
        each = float(state.loss(batch, reduction="none").double().mean())
    if abs(mean - each) > _AGREEING * abs(each):
        raise UsageError(
            "the subject's loss is not the mean over its targets, so the ranks' do not make that of a batch",
            where="subject",
            allowed="a mean in which every target counts alike (no ignored or weighted ones)",
            hint="train it in one process",
        )
