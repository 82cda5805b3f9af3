"""What one run carries through its steps, and what follows on each: a shift, the end, an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.verdict import perplexity
from altgrad_cli.rounding.statistics import Counters
from altgrad_cli.subjects.subject import Batch, Draw
from altgrad_cli.surgery.precision_plan import plan_precision, without_rounding
from altgrad_cli.training.events import Evaluated, Event, InterventionApplied, RunEnded
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.passes.eager import evaluation_loss, evaluation_scores
from altgrad_cli.training.saving.archive import Archive, PendingStep
from altgrad_cli.training.state import TrainState, encode_stored_weights, fresh_scales
from altgrad_cli.training.watch.collapse import collapse_words, is_full_speed
from altgrad_cli.training.watch.monitors import Monitors


@dataclass(slots=True)
class Run:
    """What one run carries through its steps."""

    config: TrainConfig
    draw: Draw
    """The next training batch."""
    state: TrainState
    monitors: Monitors
    faults: Faults
    archive: Archive | None
    """Where checkpoints go; None writes nothing."""
    capture_requested: Callable[[], bool]
    count: Counters
    """What is counted at every rounding: without monitors only what training itself needs."""
    shadow_buffer: Tensor | None
    validation: list[Batch]
    ended: RunEnded | None = None
    stall_collapsed: bool = False
    """A stall collapse was found in the step before: the next one is captured, before its update."""


def shift_or_stop(run: Run, pending: PendingStep) -> Iterator[Event]:
    """The decisions that look back over steps: shift, non-finite stop, stall collapse, last step."""
    config, state, monitors = run.config, run.state, run.monitors
    step, number = pending.step, pending.step.number
    metrics, finite, rate = step.summary.measured.metrics, step.finite, step.learning_rate
    stall, transfer = metrics.get("bit_stall_rate"), metrics.get("update_transfer")
    stop = monitors.nonfinite.update(not finite)
    window = monitors.stall_window.update(
        stall if finite else None, warmed_up=number > config.optimizer.warmup_steps
    )
    if monitors.shift is not None:
        target = monitors.shift.check_and_shift(state.format, not finite, window)
        if target is not None:
            yield _shift(run, target, window)
            stop = False
    full_speed = is_full_speed(number, config.optimizer.warmup_steps, rate, config.learning_rate)
    collapsed = monitors.stall_collapse.update(number, transfer, stall, full_speed=full_speed)
    run.stall_collapsed = collapsed is not None
    if stop:
        first = number - monitors.nonfinite.streak + 1
        where = monitors.nonfinite.origin or pending.origin(state)
        _end(
            run, "collapsed", f"non-finite from step {first}: {where}", {"class": "nonfinite", "step": first}
        )
    elif number >= config.max_steps:
        end_of_steps(run)


def end_of_steps(run: Run) -> None:
    """The run has taken its last step."""
    stall = run.monitors.stall_collapse
    if stall.onset is None:
        _end(run, "completed", f"{run.state.step} steps", None)
    else:
        collapse = {"class": "stall_collapse", "step": stall.onset, "detected": stall.detected}
        _end(run, "collapsed", f"{collapse_words(collapse)}: the stored weights stopped moving", collapse)


def _shift(run: Run, target: str, stall: float | None) -> InterventionApplied:
    """Go on in another format: the state is the last finite one, since nothing else was ever committed."""
    config, state, monitors = run.config, run.state, run.monitors
    before = state.format
    state.plan = plan_precision(config.precision, target, state.layer_kinds)
    state.formats.append((state.step, target))
    state.scales = fresh_scales(state.plan, config)
    encode_stored_weights(state)
    monitors.start_over(config, state)
    assert monitors.shift is not None
    return InterventionApplied(
        step=state.step,
        name="emergency_shift",
        details={"from": before, "to": target, "trigger": monitors.shift.last_trigger, "stall": stall},
    )


def _end(run: Run, outcome: str, reason: str, collapse: dict[str, Any] | None) -> None:
    run.ended = RunEnded(
        step=run.state.step,
        outcome=outcome,
        reason=reason,
        collapse=collapse,
        formats=list(run.state.formats),
    )


def evaluate(run: Run) -> Iterator[Event]:
    """The validation loss as deployed and on float32 masters; the best so far is kept."""
    config, state = run.config, run.state
    deployed = float(evaluation_loss(state, run.validation))
    master = None
    if state.plan.rounds and not state.plan.stores_weights:
        master = float(evaluation_loss(state, run.validation, without_rounding(state.plan)))
    yield Evaluated(
        step=state.step,
        validation_loss=deployed,
        validation_loss_master=master,
        perplexity=perplexity(deployed) if _is_of_tokens(state) else None,
        scores=evaluation_scores(state, run.validation),
    )
    evaluation = run.monitors.validation.update(deployed)
    if evaluation.is_best and run.archive is not None and config.runtime.checkpoint_interval and state.step:
        yield run.archive.save_best(state, run.monitors)
    if evaluation.stale and config.stop == "plateau" and run.ended is None:
        _end(run, "plateau", f"validation loss {deployed:.4f} has not improved over five evaluations", None)


def _is_of_tokens(state: TrainState) -> bool:
    return state.subject.scores is None and state.subject.corpus is not None


def evaluate_and_save(run: Run) -> Iterator[Event]:
    """The evaluation and the regular checkpoint, where they are due or the run has ended."""
    config, state = run.config, run.state
    if state.step % config.runtime.evaluation_interval == 0 or run.ended is not None:
        yield from evaluate(run)
    interval = config.runtime.checkpoint_interval
    if run.archive is not None and interval and (state.step % interval == 0 or run.ended is not None):
        yield run.archive.save_regular(state, run.monitors)
