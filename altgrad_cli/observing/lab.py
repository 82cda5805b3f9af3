"""What ``observe`` returns: it decides at every step of a loop, and gives the model back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from altgrad_cli.errors import AltgradError
from altgrad_cli.observing.passes import LivePasses, StepSeen
from altgrad_cli.observing.wrappers import run_eagerly
from altgrad_cli.runs.folder import RunDirectory
from altgrad_cli.runs.loggers.listener import FanOut, Listener
from altgrad_cli.runs.run import summarize
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.coverage import Coverage
from altgrad_cli.surgery.in_place import PlacedLayer, restore_layers
from altgrad_cli.training.after_step import Run, conclude_step, read_step
from altgrad_cli.training.describe import describe_start, report_holes
from altgrad_cli.training.events import Event, RunEnded
from altgrad_cli.training.in_use.calls import ClosureCalls
from altgrad_cli.training.in_use.optimizer import LiveOptimizer
from altgrad_cli.training.parallel.ranks import Ranks
from altgrad_cli.training.passes.buffers import buffer_values, put_buffers
from altgrad_cli.training.saving.archive import PendingStep
from altgrad_cli.training.step import Step, decide_step, propose_step

NanPolicy = Literal["tell", "drop", "stop"]

_UNSEEN = (
    "the optimizer stepped, but the observed model was not called with gradients on: nothing was measured; "
    "observe the module that the loop calls"
)


class NonfiniteStep(AltgradError):
    """A step was not finite and ``nan_policy`` is ``stop``: nothing of it has happened."""


class Lab:
    """One observed loop."""

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        *,
        ranks: Ranks,
        rule: LiveOptimizer,
        placed: list[tuple[str, PlacedLayer]],
        directory: RunDirectory | None,
        listeners: list[Listener],
        nan_policy: NanPolicy,
        capture: bool,
    ) -> None:
        """Listen to a run that ``observe`` has put together.

        Args:
            model: as the loop has it, wrapped or not.
            ranks: the processes that share its batches.
            rule, placed: its optimizer, and its layers that round where they stand.
        """
        self.nan_policy: NanPolicy = nan_policy
        """What becomes of a step that is not finite; may be changed at any time."""
        self._run, self._rule, self._placed, self._directory = run, rule, placed, directory
        self._capture = capture
        self._closure: Callable[[], object] | None = None
        self._wanted, self._ended, self._unseen_told = False, False, False
        run.capture_requested = self._asked
        self._passes = LivePasses(run, run.state.model, rule.live.turned, ranks)
        self._undo_eager = run_eagerly(model)
        self._hooks = [
            rule.own.register_step_pre_hook(self._before_step),
            rule.own.register_step_post_hook(self._after_step),
        ]
        self._pending: tuple[Step, StepSeen] | None = None
        self._heard = FanOut(listeners)
        self._begun = False

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def metrics(self) -> dict[str, Any]:
        """What the last step showed, by name."""
        history = self._run.monitors.history
        return dict(history[-1]) if history else {}

    def coverage(self) -> Coverage | None:
        """Which share of the multiply-adds is rounded, and what is not; None before the first pass."""
        return self._passes.coverage

    def capture_next(self) -> None:
        """Write a forensic checkpoint before the next update."""
        self._wanted = True

    @contextmanager
    def step(self, closure: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Take ``closure`` (forward, loss, backward) and give its loss; the block clips and steps.

        With it the step can be taken again: the float32 shadow is measured.
        """
        self._closure = closure
        try:
            yield closure()
        finally:
            self._closure = None

    def close(self) -> None:
        """Give the model back as it was: hooks gone, layers their own, weights where they are."""
        if self._ended:
            return
        self._ended = True
        for hook in self._hooks:
            hook.remove()
        self._passes.close()
        restore_layers(self._placed)
        self._undo_eager()
        self._begin()
        state, watched = self._run.state, self._run.monitors
        streak = watched.nonfinite.streak
        collapse: dict[str, Any] | None = None
        outcome, reason = "completed", f"{state.step} steps"
        if streak:
            first = state.step - streak + 1
            outcome, reason = "collapsed", f"non-finite from step {first}: {watched.nonfinite.origin}"
            collapse = {"class": "nonfinite", "step": first}
        ended = RunEnded(
            step=state.step, outcome=outcome, reason=reason, collapse=collapse, formats=list(state.formats)
        )
        self._tell([ended])
        if self._directory is not None:
            summarize(self._directory, ended)
        self._heard.close()
        if self._directory is not None and outcome == "collapsed":
            from altgrad_cli.reporting.report import write_failure_report

            write_failure_report(self._directory.path)

    def _begin(self) -> None:
        """Tell what is observed, once the first pass has shown it."""
        if not self._begun:
            self._begun, run = True, self._run
            started = describe_start(run.config, run.state, run.state.init_hash, None, self._passes.coverage)
            self._tell([started, *report_holes(run, started)])

    def _asked(self) -> bool:
        wanted, self._wanted = self._wanted, False
        return wanted

    def _tell(self, events: Sequence[Event] | Iterator[Event]) -> None:
        for event in events:
            self._heard.receive(event)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._rule.aside:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first is the optimizer itself
        if closure is None:
            self._decide(self._closure)
            return None

        def seen() -> object:
            loss = closure()
            self._decide(closure)
            return loss

        return (args[0], seen, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    def _decide(self, closure: Callable[[], object] | None) -> None:
        """Between backward and update: measure, decide, act; what is not finite is captured here."""
        seen = self._passes.take()
        self._pending = None
        if seen is None:
            if not self._unseen_told and not self._run.state.step:
                self._unseen_told = True
                warnings.warn(_UNSEEN, stacklevel=4)
            return
        self._begin()
        run, rule = self._run, self._rule
        state = run.state
        rule.live.read(state.flat.values)
        gradient = rule.live.read_gradient(state.flat.gradient)
        result = self._passes.result(seen, gradient)
        again: Batch | None = None
        if closure is not None:
            again = ClosureCalls(
                x=torch.zeros(0),
                y=torch.zeros(0),
                closure=closure,
                stream=seen.stream,
                turned=rule.live.turned,
            )
        rate = float(rule.own.param_groups[0]["lr"])
        with self._passes.muted():
            step = decide_step(
                state,
                self._passes.batch(seen),
                result,
                rate,
                clipper=run.monitors.clipper,
                read=lambda passed: read_step(run, again, passed),
            )
        if seen.loss is None:
            step.summary.measured.metrics["loss"] = None
        if step.clip.norm is not None or step.clip.range_clipped:
            rule.live.write_gradient(gradient)
        if self._capture or self.nan_policy != "tell":
            rule.before = rule.memory()
        self._pending = step, seen
        if not step.summary.finite:
            self._conclude(step, seen, had_before=seen.buffers)
            if self.nan_policy == "stop":
                self._pending = None
                put_buffers(run.state.model, seen.buffers)
                self._stop()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        rule, run = self._rule, self._run
        if rule.aside or self._pending is None:
            return
        (decided, seen), self._pending = self._pending, None
        policy = self.nan_policy
        rule.stepped = True
        try:
            if not decided.summary.finite:
                if policy == "drop":
                    rule.roll_back()
                    rule.forget()
                    put_buffers(run.state.model, seen.buffers)
                return
            step = propose_step(run.state, decided, run.faults)
            captured = run.stall_collapsed or self._wanted or step.number in run.config.runtime.capture_at
            if (not step.finite or captured) and rule.before is not None:
                rule.roll_back()
            self._conclude(step, seen, had_before=seen.buffers if not rule.stepped else None)
            if step.finite:
                if run.state.plan.stores_weights or run.state.plan.frozen_blocks or rule.moved:
                    rule.live.write(run.state.flat.values)
                rule.moved = False
            elif policy == "tell":
                rule.go_on()
            else:
                rule.forget()
                put_buffers(self._run.state.model, seen.buffers)
                if policy == "stop":
                    self._stop()
        finally:
            rule.stepped = False

    def _conclude(self, step: Step, seen: StepSeen, *, had_before: dict[str, Tensor] | None) -> None:
        """The second half of the step; a model that is looked at again has the buffers from before it."""
        run = self._run
        run.keeps_nonfinite = self.nan_policy == "tell"
        after = buffer_values(self._run.state.model) if had_before else {}
        if had_before:
            put_buffers(self._run.state.model, had_before)
        try:
            with self._passes.muted():
                self._tell(
                    conclude_step(run, PendingStep(step, seen.streams_before), seen.census, seen.started)
                )
        finally:
            put_buffers(self._run.state.model, after)
        interval = run.config.runtime.checkpoint_interval
        if run.archive is not None and interval and run.state.step % interval == 0:
            self._tell([run.archive.save_regular(run.state, run.monitors)])

    def _stop(self) -> None:
        origin, number = self._run.monitors.nonfinite.origin, self._run.state.step
        raise NonfiniteStep(
            f"step {number} is not finite: {origin}",
            where=None if self._directory is None else str(self._directory.path),
            hint="nan_policy='drop' undoes such a step and goes on",
        )
