"""What one run carries through its steps, and what follows on each, whoever took it: engine or a user's loop.

Capture, measures, commit and events; a shift, the end, an evaluation, a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.verdict import perplexity
from altgrad_cli.rounding.statistics import Counters
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.precision_plan import plan_precision, without_rounding
from altgrad_cli.training.events import (
    Alert,
    Evaluated,
    Event,
    InterventionApplied,
    RunEnded,
    StepCompleted,
)
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.measuring.codes import CodeCensus
from altgrad_cli.training.measuring.passes import PassSummary, read_pass
from altgrad_cli.training.measuring.updates import add_rescale_flips, interval_diagnostics, read_update
from altgrad_cli.training.passes.eager import PassResult, evaluation_loss, evaluation_scores, shadow_pass
from altgrad_cli.training.saving.archive import Archive, PendingStep
from altgrad_cli.training.state import TrainState, encode_stored_weights, fresh_scales
from altgrad_cli.training.step import Step, commit_step, update_norm
from altgrad_cli.training.watch.alerts import AlertChange
from altgrad_cli.training.watch.collapse import collapse_words, is_full_speed
from altgrad_cli.training.watch.monitors import Monitors


@dataclass(slots=True)
class Run:
    """What one run carries through its steps."""

    config: TrainConfig
    state: TrainState
    monitors: Monitors
    faults: Faults
    archive: Archive | None
    """Where checkpoints go; None writes nothing."""
    capture_requested: Callable[[], bool]
    shadow_buffer: Tensor | None
    validation: list[Batch]
    ended: RunEnded | None = None
    stall_collapsed: bool = False
    """A stall collapse was found in the step before: the next one is captured, before its update."""
    keeps_nonfinite: bool = False
    """An update that is not finite is told of and happens all the same: the loop is the user's."""

    @property
    def count(self) -> Counters:
        """What is counted at every rounding: without monitors only what training itself needs."""
        config = self.config
        return "all" if config.monitors.enabled or config.enable_partition_clipping else "extremes"

    def census(self, number: int) -> CodeCensus | None:
        """What counts the codes of step ``number``, where diagnostics are due."""
        due = number % self.config.diagnostic_interval == 0 and self.config.monitors.enabled
        return CodeCensus(self.state) if due else None


def read_step(run: Run, batch: Batch | None, result: PassResult) -> PassSummary:
    """Read a pass, and its float32 shadow where this step has one; a batch of None cannot be run again."""
    due = (run.state.step + 1) % run.config.shadow_interval == 0
    buffer = run.shadow_buffer if due else None
    shadow = None if buffer is None or batch is None else shadow_pass(run.state, batch, buffer)
    return read_pass(run.state, result, shadow, run.monitors.dead)


def conclude_step(
    run: Run, pending: PendingStep, census: CodeCensus | None, started: float
) -> Iterator[Event]:
    """Everything from capture to stop, in the order that every claim of this laboratory rests on.

    Args:
        pending: the step before its update.
        census: of the codes that its pass used; None where no diagnostics are due.
        started: when the step began, by ``time.perf_counter``.
    """
    config, state, monitors = run.config, run.state, run.monitors
    step, number = pending.step, pending.step.number
    update, measured, finite = step.update, step.summary.measured, step.finite
    yield from _report_clip(run, step)
    yield from _capture(run, pending)
    # 8 measure the update; commit it unless something is not finite
    if update is not None and finite and config.monitors.enabled:
        read_update(state, step, monitors.persistence, monitors.regions)
        if census is not None:
            interval_diagnostics(state, step, census, monitors.persistence, monitors.regions, monitors.ranks)
    flips = commit_step(state, step)
    if flips and config.monitors.enabled:
        add_rescale_flips(state, flips, measured)

    # 9 decide to stop, emit
    metrics = measured.metrics
    metrics["learning_rate"] = step.learning_rate
    metrics["tokens_per_second"] = step.batch.x.numel() / (time.perf_counter() - started)
    monitors.history.append({"step": number, **metrics})
    shown = measured.restricted(config.monitors, number, state.layer_names)
    yield StepCompleted(
        step=number,
        metrics=shown.metrics,
        layers=shown.layers,
        committed=finite or run.keeps_nonfinite,
        format=state.format,
        histograms=census.histograms() if census is not None else {},
    )
    if update is not None and finite:
        for rescale in update.rescales:
            yield InterventionApplied(
                step=number,
                name="rescale",
                details={
                    "layer": state.layer_names[rescale.layer],
                    "scale_before": rescale.before.tolist(),
                    "scale_after": rescale.after.tolist(),
                    "amax": rescale.amax,
                },
            )
    if config.monitors.enabled:
        changes = monitors.alert_changes(measured, step.summary.loss, state.layer_names)
        yield from (alert_event(number, change) for change in changes)
    yield from shift_or_stop(run, pending)


def alert_event(step: int, change: AlertChange) -> Alert:
    """``change`` as an event."""
    return Alert(
        step=step,
        name=change.kind,
        metric=change.metric,
        layer=change.layer,
        value=change.value,
        threshold=change.threshold,
        state=change.state,
    )


def _report_clip(run: Run, step: Step) -> Iterator[Event]:
    """Say what clipping did to the gradient, and through it to the update."""
    clipper, clip = run.monitors.clipper, step.clip
    if clip.norm is not None:
        step.summary.measured.metrics["gradient_clip_norm"] = clip.norm
    if clipper is not None and clip.range_clipped:
        yield InterventionApplied(
            step=step.number,
            name="range_clip",
            details={
                "overflow_rate": step.summary.overflow_rate,
                "gradient_norm": clipper.last_norm,
                "clip_threshold": clipper.clip_threshold,
                "bound": clipper.last_bound,
                "update_norm_without": clip.update_norm_without,
                "update_norm_with": None if step.update is None else update_norm(run.state, step.update),
            },
        )


def _capture(run: Run, pending: PendingStep) -> Iterator[Event]:
    """Write the state before the step, with what broke it; of a streak of non-finite steps, the first."""
    asked = run.state.ranks.any(run.capture_requested())
    requested = asked or pending.step.number in run.config.runtime.capture_at
    if not pending.step.finite and run.monitors.nonfinite.streak == 0:
        trigger = "nonfinite"
        if run.state.ranks.speaks:
            pending = pending.traced(run.state, run.faults)
        run.monitors.nonfinite.origin = pending.origin(run.state)
    elif run.stall_collapsed:
        trigger = "stall_collapse"
    elif requested:
        trigger = "requested"
    else:
        return
    if run.archive is not None:
        yield run.archive.save_anomaly(run.state, run.monitors, pending, trigger)


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


def has_shadow(config: TrainConfig, state: TrainState) -> bool:
    """Whether the run measures its float32 shadow."""
    # Where nothing is rounded the shadow is the gradient itself: there is nothing to measure.
    return config.use_shadow and config.monitors.enabled and state.plan.rounds
