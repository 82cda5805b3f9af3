"""``observe``: what a loop is given, and what it can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import torch
from rich.console import Console
from torch import Tensor, nn

from altgrad_cli.errors import AltgradError, UsageError, check_choice
from altgrad_cli.observing.passes import LivePasses, StepSeen
from altgrad_cli.observing.settings import observed_config
from altgrad_cli.observing.wrappers import run_eagerly, unwrapped
from altgrad_cli.runs.folder import RunDirectory, create_run
from altgrad_cli.runs.loggers.jsonl import JsonlLog
from altgrad_cli.runs.loggers.listener import FanOut, Listener
from altgrad_cli.runs.loggers.live import LiveView
from altgrad_cli.runs.loggers.wandb import wandb_listeners
from altgrad_cli.runs.run import summarize
from altgrad_cli.subjects.subject import Batch, Subject, every_layer_hidden
from altgrad_cli.surgery.in_place import restore_layers
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.training.after_step import Run, conclude_step, has_shadow, read_step
from altgrad_cli.training.describe import describe_start
from altgrad_cli.training.events import Event, RunEnded
from altgrad_cli.training.faults import Faults, resolve_injections
from altgrad_cli.training.in_use.building import live_state
from altgrad_cli.training.in_use.calls import ClosureCalls
from altgrad_cli.training.passes.buffers import buffer_values, put_buffers
from altgrad_cli.training.saving.archive import Archive, PendingStep
from altgrad_cli.training.step import Step, decide_step, propose_step
from altgrad_cli.training.watch.monitors import Monitors

NanPolicy = Literal["tell", "drop", "stop"]


class NonfiniteStep(AltgradError):
    """A step was not finite and ``nan_policy`` is ``stop``: nothing of it has happened."""


def observe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    precision: str = "e5m2",
    regime: str = "standard",
    rules: Sequence[tuple[str, str]] = (),
    run_dir: str | Path | None = None,
    monitors: bool = True,
    capture: bool = True,
    nan_policy: NanPolicy = "tell",
    kind: Callable[[str], LayerKind] = every_layer_hidden,
    subject: str | None = None,
    live: bool = False,
    settings: Sequence[str] = (),
) -> Lab:
    """Round, measure and capture in a loop that stays as it is, until ``close`` of what is returned.

    Args:
        model: its ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and Transformers' ``Conv1D`` round in place.
        optimizer: any of torch's, or built like them; its step hooks are the moment before an update.
        precision, regime: the format and what is rounded, as ``fp8_format`` and ``precision.regime``.
        rules: (pattern of layer names, format), the first match wins.
        run_dir: a new folder for events, configuration, checkpoints and reports; None writes nothing.
        monitors: whether anything is measured beside the loss.
        capture: keep what a capture needs: the step's inputs and a copy of the optimizer's state.
        nan_policy: what becomes of a step that is not finite: ``tell`` lets it happen, ``drop`` undoes it,
            ``stop`` raises ``NonfiniteStep`` before it happens.
        kind: what a layer is; one that shares its weight is a head in any case.
        subject: ``module:function`` that builds this model, recorded for whoever diagnoses a capture.
        live: lines about the progress on stderr.
        settings: further ``key=value`` of the configuration.

    Raises:
        UsageError: the model, the optimizer or a setting cannot be used; nothing was changed.
    """
    return Lab(
        model,
        optimizer,
        precision=precision,
        regime=regime,
        rules=rules,
        run_dir=None if run_dir is None else Path(run_dir),
        monitors=monitors,
        capture=capture,
        nan_policy=nan_policy,
        kind=kind,
        subject=subject,
        live=live,
        settings=settings,
    )


class Lab:
    """One observed loop."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str,
        regime: str,
        rules: Sequence[tuple[str, str]],
        run_dir: Path | None,
        monitors: bool,
        capture: bool,
        nan_policy: NanPolicy,
        kind: Callable[[str], LayerKind],
        subject: str | None,
        live: bool,
        settings: Sequence[str],
    ) -> None:
        check_choice("nan_policy", nan_policy, get_args(NanPolicy))
        if type(optimizer).__name__ in ("LBFGS", "SparseAdam"):
            raise UsageError(
                f"{type(optimizer).__name__} takes several passes a step, or gradients that are not dense",
                where="observe",
                allowed="an optimizer that steps once on dense gradients",
            )
        self.nan_policy: NanPolicy = nan_policy
        """What becomes of a step that is not finite; may be changed at any time."""
        inner = unwrapped(model)
        given = ",".join(f"{{pattern: '{pattern}', format: {fmt}}}" for pattern, fmt in rules)
        config = observed_config(
            optimizer,
            precision=precision,
            regime=regime,
            monitors=monitors,
            shadow=True,
            subject=subject,
            overrides=[*([f"precision.rules=[{given}]"] if given else []), *settings],
        )
        state, self._rule, self._placed = live_state(
            config, inner, lambda live: optimizer, Subject(_no_build, _no_loss, None, None, kind), PassSlot()
        )
        self._model, self._capture, self._closure = inner, capture, None
        self._wanted, self._ended = False, False
        self._listeners: list[Listener] = []
        try:
            injections = resolve_injections(config.inject, state.plan, config.seed)
            watched = Monitors(config, state)
            watched.nonfinite.patience = config.max_steps
            directory = None if run_dir is None else create_run(run_dir, config, where="run_dir")
        except BaseException:
            restore_layers(self._placed)
            raise
        faults = Faults(injections, config.seed)
        self._directory: RunDirectory | None = directory
        self._run = Run(
            config=config,
            state=state,
            monitors=watched,
            faults=faults,
            archive=None if directory is None or not capture else Archive(directory.path, faults, {}),
            capture_requested=self._asked,
            shadow_buffer=torch.empty_like(state.flat.values) if has_shadow(config, state) else None,
            validation=[],
            keeps_nonfinite=nan_policy == "tell",
        )
        self._passes = LivePasses(self._run, inner, self._rule.live.turned)
        self._undo_eager = run_eagerly(model)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._pending: tuple[Step, StepSeen] | None = None
        if directory is not None:
            self._listeners.append(JsonlLog(directory.events))
            self._listeners += wandb_listeners(config, directory, warn=_say)
        if live:
            self._listeners.append(LiveView(Console(stderr=True, force_terminal=False), config.max_steps))
        self._heard = FanOut(self._listeners)
        self._tell([describe_start(config, state, state.init_hash, None)])

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

    def capture_next(self) -> None:
        """Write a forensic checkpoint before the next update."""
        self._wanted = True

    @contextmanager
    def step(self, closure: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Take ``closure`` (forward, loss, backward) and give its loss; the block clips and steps.

        With it the step can be taken again: the float32 shadow is measured.
        """
        self._closure = closure  # type: ignore[assignment]
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
        if seen is None or not seen.passes:
            return
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
                put_buffers(self._model, seen.buffers)
                if policy == "stop":
                    self._stop()
        finally:
            rule.stepped = False

    def _conclude(self, step: Step, seen: StepSeen, *, had_before: dict[str, Tensor] | None) -> None:
        """The second half of the step; a model that is looked at again has the buffers from before it."""
        run = self._run
        run.keeps_nonfinite = self.nan_policy == "tell"
        after = buffer_values(self._model) if had_before else {}
        if had_before:
            put_buffers(self._model, had_before)
        try:
            with self._passes.muted():
                self._tell(
                    conclude_step(run, PendingStep(step, seen.streams_before), seen.census, seen.started)
                )
        finally:
            put_buffers(self._model, after)
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


def _no_build(generator: torch.Generator) -> nn.Module:
    raise AltgradError("an observed model is not built here")


def _no_loss(output: Tensor, target: Tensor, /, *, reduction: str = "mean") -> Tensor:
    raise AltgradError("the loss of an observed loop is its own")


def _say(text: str) -> None:
    Console(stderr=True).print(text)
