"""One training step, as a function that can be called again, and its commit.

``compute_step`` changes nothing in the state: a pass draws from forks of the random streams, the update lies
beside the weights. The engine's step, the traced second run of a failing one, replay, what-if and the layer
table of a diagnosis are this function, each with its variation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from altgrad_cli.rounding.statistics import Counters
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.linear import Observer, Scales, Tap
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.measuring.passes import PassSummary, read_pass
from altgrad_cli.training.origin import first_operand
from altgrad_cli.training.passes.buffers import put_buffers
from altgrad_cli.training.passes.eager import PassResult, run_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.update import CandidateUpdate, candidate_update, commit, re_encode
from altgrad_cli.training.watch.clipping import PartitionRelativeClipper, clipper_for, scale_to_norm
from altgrad_cli.updates.schedule import learning_rate_at


@dataclass(frozen=True, slots=True)
class ClipOutcome:
    """What clipping did to the gradient of a step."""

    norm: float | None = None
    """L2 norm before ``optimizer.gradient_clip``; None where no limit is set."""
    range_clipped: bool = False
    """The range clipper acted, whether its threshold bound or not."""
    update_norm_without: float | None = None
    """L2 norm of the update had the range clipper not acted; None where it did not, or where not finite."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that has not happened yet."""

    number: int
    batch: Batch
    learning_rate: float
    result: PassResult
    """The pass; its gradient is clipped."""
    summary: PassSummary
    clip: ClipOutcome
    update: CandidateUpdate | None
    """None where the pass was not finite."""

    @property
    def finite(self) -> bool:
        """Whether loss, gradient, every quantiser input and the updated weights are finite."""
        return self.update is not None and self.update.finite

    def first_nonfinite(self, state: TrainState) -> str:
        """Of a step that is not finite, the part that was so first, as far as counts can tell."""
        assert self.result.stats is not None
        operand = first_operand(self.result.stats, state.plan, state.config.precision.overflow)
        if operand is not None:
            return f"{operand[1]} of {state.layer_names[operand[0]]}"
        if not math.isfinite(self.summary.loss):
            return "loss"
        return "gradient" if self.update is None else "updated weights"


def compute_step(
    state: TrainState,
    batch: Batch,
    *,
    learning_rate: float | None = None,
    scales: Scales | None = None,
    faults: Faults | None = None,
    clipper: PartitionRelativeClipper | None = None,
    read: Callable[[PassResult], PassSummary] | None = None,
    out: Tensor | None = None,
    count: Counters = "all",
    look: Tap | None = None,
    observer: Observer | None = None,
) -> Step:
    """The step that ``state`` stands before, up to the update that it proposes.

    Args:
        learning_rate: None takes that of the schedule.
        scales: of the operands; None takes those of the amax histories.
        faults: planted ones, that strike the pass and the candidate; None plants none.
        clipper: the range clipper that counts what it does; None takes a fresh one where the config has one.
        read: reads the pass before anything is done about it; None reads what the decision needs.
        out, count, observer: as for ``run_pass``.
        look: sees every operand before it is rounded, struck ones as they are.
    """
    number = state.step + 1
    rate = learning_rate_at(state.config, number) if learning_rate is None else learning_rate
    faults = faults or Faults((), state.config.seed)
    # 2 forward, 3 backward
    with faults.active(state, batch, number) as tap:
        taps = [one for one in (tap, look) if one is not None]
        result = run_pass(
            state, batch, scales=scales, out=out, count=count, tap=_in_turn(taps), observer=observer
        )
    clipper = clipper or clipper_for(state.config, state.format)
    decided = decide_step(state, batch, result, rate, clipper=clipper, read=read)
    return propose_step(state, decided, faults)


def decide_step(
    state: TrainState,
    batch: Batch,
    result: PassResult,
    learning_rate: float,
    *,
    clipper: PartitionRelativeClipper | None,
    read: Callable[[PassResult], PassSummary] | None = None,
) -> Step:
    """The step whose pass was taken, measured and acted upon; its update is yet to be proposed."""
    # 4 measure
    summary = read(result) if read is not None else read_pass(state, result)
    # 5 decide, 6 act: whatever changes the gradient does so before the update
    clip = _clip(state, summary, result, learning_rate, clipper) if summary.finite else ClipOutcome()
    return Step(state.step + 1, batch, learning_rate, result, summary, clip, None)


def propose_step(state: TrainState, decided: Step, faults: Faults) -> Step:
    """7: the same with the update that the rule proposes, where the pass was finite."""
    if not decided.summary.finite:
        return decided
    update = candidate_update(state, decided.result.gradient, decided.learning_rate)
    return replace(decided, update=faults.alter_update(state, update, decided.number))


def commit_step(state: TrainState, step: Step) -> dict[int, float]:
    """Make the step happen, or let go of its update where that is not finite.

    Returns the share of weights that a new scale of the stored weights re-encoded, by layer.
    """
    flips: dict[int, float] = {}
    if step.update is not None and step.finite:
        flips = re_encode(state, step.update)
        commit(state, step.update)
        put_buffers(state.model, step.result.buffers_after)
        state.scales.update(step.summary.amax)
    state.streams.adopt_all(step.result.streams_after)
    state.step = step.number
    return flips


def update_norm(state: TrainState, update: CandidateUpdate) -> float | None:
    """L2 norm of the change that ``update`` makes to all parameters, unrounded; None where not finite."""
    return float(torch.linalg.vector_norm(update.unrounded - state.flat.values)) if update.finite else None


def _in_turn(taps: list[Tap]) -> Tap | None:
    if len(taps) < 2:
        return taps[0] if taps else None
    first, second = taps
    return lambda layer, role, x: second(layer, role, first(layer, role, x))


def _clip(
    state: TrainState,
    summary: PassSummary,
    result: PassResult,
    rate: float,
    clipper: PartitionRelativeClipper | None,
) -> ClipOutcome:
    """Clip the gradient in place where the config or the range clipper asks for it."""
    limit = state.config.optimizer.gradient_clip
    gradients = state.flat.model_views(result.gradient)
    norm = None if limit is None else scale_to_norm(gradients, limit)
    without = None
    if clipper is not None:
        if clipper.acts_at(summary.overflow_rate):
            without = update_norm(state, candidate_update(state, result.gradient, rate))
        return ClipOutcome(norm, clipper.clip(gradients, summary.overflow_rate), without)
    return ClipOutcome(norm)
