"""The recorded step once more under a variation: did it survive, and what did the update do?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.scene import Scene, varied
from altgrad_cli.metrics.gradient import SHADOW_COLUMNS, gradient_cosine, measure_shadow
from altgrad_cli.metrics.spec import pool
from altgrad_cli.subjects.corpus.batches import Batch
from altgrad_cli.surgery.linear import Scales
from altgrad_cli.surgery.precision_plan import PrecisionPlan
from altgrad_cli.training.measuring.updates import read_update
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import Step, compute_step


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
    """tau of the stored weights: 0 frozen, 1 faithful; float32 masters are."""
    stall: float | None = None
    """Share of updated weights whose stored value did not change."""
    cosine: float | None = None
    """Cosine of the gradient and its float32 shadow."""


def attempt(
    scene: Scene,
    *,
    config: TrainConfig | None = None,
    plan: PrecisionPlan | None = None,
    scales: Callable[[TrainState], Scales] | None = None,
    batch: Batch | None = None,
    learning_rate: float | None = None,
    shadow: Tensor | None = None,
    faults: bool = True,
) -> Outcome:
    """Run the step of ``scene`` with the given changes; the scene is left as it was.

    Args:
        scales: makes the scales of the pass; None takes those of the amax histories.
        shadow: the float32 gradient to compare with.
        faults: whether planted faults strike again, as they did in the step.
    """
    used = batch if batch is not None else scene.batch
    if used is None:
        raise AltgradError("the step cannot be repeated without its batch", where=scene.batch_origin)
    with varied(scene, config=config, plan=plan) as state:
        step = compute_step(
            state,
            used,
            learning_rate=learning_rate,
            scales=None if scales is None else scales(state),
            faults=scene.faults if faults else None,
        )
        transfer, stall = _update_effect(state, step)
        norm = step.clip.norm
        return Outcome(
            survives=step.finite,
            stopped_by=None if step.finite else step.first_nonfinite(state),
            loss=step.summary.loss,
            gradient_norm=float(torch.linalg.vector_norm(step.result.gradient)) if norm is None else norm,
            overflow_rate=step.summary.overflow_rate,
            transfer=transfer,
            stall=stall,
            cosine=_cosine(state, step, shadow),
        )


def _update_effect(state: TrainState, step: Step) -> tuple[float | None, float | None]:
    """(tau, stall) as the engine measures them: over the stored weights that live on a grid."""
    if not step.finite:
        return None, None
    read_update(state, step)
    metrics = step.summary.measured.metrics
    if state.plan.stores_weights:
        return metrics["update_transfer"], metrics["bit_stall_rate"]
    return (1.0, 0.0) if metrics["update_norm"] else (None, None)  # float32 masters take all of it


def _cosine(state: TrainState, step: Step, shadow: Tensor | None) -> float | None:
    if shadow is None:
        return None
    sums = measure_shadow(state.flat.layout(blocks_only=False), step.result.gradient, shadow).tolist()
    cosine = gradient_cosine(pool(SHADOW_COLUMNS, sums))
    return None if cosine is None or math.isnan(cosine) else cosine
