"""The recorded step once more under a variation: did it survive, and what did the update do?"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.scene import Scales, Scene, varied
from altgrad_cli.subjects.corpus.batches import Batch
from altgrad_cli.surgery.precision_plan import PrecisionPlan
from altgrad_cli.training.origin import first_operand
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import StepResult, compute_step
from altgrad_cli.training.tracing import clip_like_engine, largest_overflow_rate
from altgrad_cli.training.update import CandidateUpdate, candidate_update


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a step came to. None where a quantity could not be measured."""

    survives: bool
    """Loss, gradient, every rounding's input and the updated weights are finite."""
    stopped_by: str | None
    """What was not finite, in words."""
    loss: float | None = None
    gradient_norm: float | None = None
    overflow_rate: float | None = None
    transfer: float | None = None
    """tau of the blocks' linear weights: 0 frozen, 1 faithful."""
    stall: float | None = None
    """Share of updated weights whose stored value did not change."""
    cosine: float | None = None
    """Cosine of the gradient and its float32 shadow."""


@torch.no_grad()
def _update_effect(state: TrainState, update: CandidateUpdate) -> tuple[float | None, float | None]:
    """(tau, stall) over the blocks' linear weights."""
    end = state.flat.linear_end
    before = state.flat.values[:end]
    change = update.wide[:end] - before
    after = update.wide[:end] if update.rounded is None else update.rounded
    moved = change != 0
    square = float(change.double().square().sum())
    if square == 0 or not math.isfinite(square):
        return None, None
    transfer = float(((after - before).double() * change.double()).sum()) / square
    stall = float((moved & (after == before)).sum()) / float(moved.sum())
    return transfer, stall


def attempt(
    scene: Scene,
    *,
    config: TrainConfig | None = None,
    plan: PrecisionPlan | None = None,
    scales: Callable[[TrainState], Scales] | None = None,
    batch: Batch | None = None,
    learning_rate: float | None = None,
    clip: float | None = None,
    shadow: Tensor | None = None,
    faults: bool = True,
) -> Outcome:
    """Run the step of ``scene`` with the given changes; the scene is left as it was.

    Args:
        scales: makes the scales of the pass; None takes those of the amax histories.
        clip: L2 norm to which the gradient is scaled down before the update.
        shadow: the float32 gradient to compare with.
        faults: whether planted faults strike again, as they did in the step.
    """
    used = batch if batch is not None else scene.batch
    if used is None:
        raise AltgradError("the step cannot be repeated without its batch", where=scene.batch_origin)
    with varied(scene, config=config, plan=plan) as state:
        chosen = scales(state) if scales is not None else state.scales.current(state.plan, state.config)
        striking = scene.faults.active(state, scene.step) if faults else nullcontext(None)
        with striking as tap:
            result = compute_step(state, used, scales=chosen, tap=tap)
        return _judge(scene, state, result, learning_rate, clip, shadow, faults)


def _judge(
    scene: Scene,
    state: TrainState,
    result: StepResult,
    learning_rate: float | None,
    clip: float | None,
    shadow: Tensor | None,
    faults: bool,
) -> Outcome:
    loss = float(result.loss)
    norm = float(torch.linalg.vector_norm(result.gradient))
    assert result.stats is not None
    operand = first_operand(result.stats, state.plan, state.config.precision.overflow)
    stopped = None if operand is None else f"{operand[1]} of {state.layer_names[operand[0]]}"
    if stopped is None and not math.isfinite(loss):
        stopped = "loss"
    if stopped is None and not bool(torch.isfinite(result.gradient).all()):
        stopped = "gradient"
    transfer = stall = None
    if stopped is None:
        clip_like_engine(state, result)
        if clip is not None and norm > clip:
            result.gradient.mul_(clip / norm)
        update = candidate_update(state, result.gradient, learning_rate or scene.learning_rate)
        if faults:
            update = scene.faults.alter_update(state, update, scene.step)
        if update.finite:
            transfer, stall = _update_effect(state, update)
        else:
            stopped = "updated weights"
    return Outcome(
        survives=stopped is None,
        stopped_by=stopped,
        loss=loss,
        gradient_norm=norm,
        overflow_rate=largest_overflow_rate(result),
        transfer=transfer,
        stall=stall,
        cosine=_cosine(result.gradient, shadow),
    )


def _cosine(gradient: Tensor, shadow: Tensor | None) -> float | None:
    if shadow is None:
        return None
    scale = float(torch.linalg.vector_norm(gradient)) * float(torch.linalg.vector_norm(shadow))
    if scale == 0 or not math.isfinite(scale):
        return None
    # Two sums of float32 squares can make it exceed 1 by an ulp.
    return max(-1.0, min(1.0, float(torch.dot(gradient.double(), shadow.double())) / scale))
