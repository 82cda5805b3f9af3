"""What failed and when, from what was recorded and from what the step itself shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final, Literal

import torch
from torch import Tensor

from altgrad_cli.checkpoints.payload import Checkpoint, RecordedFailure, Scalar
from altgrad_cli.forensics.opened import OpenedCheckpoint
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.forensics.step_again.variations import Outcome
from altgrad_cli.metrics.thresholds import COLLAPSE_STALL, COLLAPSE_TRANSFER, COLLAPSE_WINDOW
from altgrad_cli.training.origin import FirstNonfinite
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.watch.collapse import Divergence, onset_words

FailureClass = Literal["nonfinite", "stall_collapse", "divergence", "none", "not_judged"]
NONFINITE: Final = "nonfinite"
STALL: Final = "stall_collapse"
DIVERGENCE: Final = "divergence"
NONE: Final = "none"
NOT_JUDGED: Final = "not_judged"
"""A file without one tensor whose values can be judged: neither failed nor healthy."""


def history_of(saved: Checkpoint) -> Sequence[Mapping[str, Scalar]]:
    """The recorded scalars of the last steps, oldest first."""
    return saved.monitors.history if saved.history is None else saved.history


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What failed and when. None where it is not known."""

    kind: FailureClass = field(metadata={"key": "class"})
    step: int
    captured_at: int
    """The step that the checkpoint stands before."""
    captured_for: str | None
    """The class that the run itself saw."""
    trigger: str
    recorded_trigger: str | None
    format: str
    formats: tuple[tuple[int, str], ...]
    """(steps taken, the format in force after them), oldest first."""
    regime: str
    rounding: str
    overflow: str
    scaling: str
    nonfinite_count: int
    loss: float | None
    loss_before: float | None
    best_loss: float | None


def classify(
    opened: OpenedCheckpoint, first: FirstNonfinite | None, now: Outcome | None, nonfinite_count: int
) -> Failure:
    """What failed, by the trace first, then by what was recorded, then by what the step shows."""
    saved = opened.saved
    recorded = saved.failure or RecordedFailure(kind=NONE, step=opened.step)
    history = history_of(saved)
    since = stalled_since(history)
    kind: FailureClass = NONE
    step, trigger = opened.step, "nothing in this step is out of order"
    if recorded.kind == NONFINITE or first is not None:
        kind = NONFINITE
        trigger = first.words if first else recorded.trigger or "a non-finite value"
    elif recorded.kind == STALL or since is not None or _stalls_now(now):
        kind = STALL
        onset, detected = recorded.stall_collapsed_at, recorded.stall_detected_at
        step = since if since is not None else opened.step
        trigger = _stall_words(since, history, now)
        if isinstance(onset, int):
            step = detected if isinstance(detected, int) else onset
            words = onset_words(onset) if isinstance(detected, int) else f"in the window from step {onset}"
            trigger = f"stall collapse {words}; {trigger}"
    elif (diverging := _divergence(opened)) is not None:
        kind, step, trigger = DIVERGENCE, *diverging
    losses = _numbers(history, "loss")
    precision = opened.config.precision
    return Failure(
        kind=kind,
        step=step,
        captured_at=opened.step,
        captured_for=None if saved.failure is None else recorded.kind,
        trigger=trigger,
        recorded_trigger=recorded.trigger,
        format=saved.format,
        formats=saved.formats,
        regime=precision.regime,
        rounding=precision.rounding,
        overflow=precision.overflow,
        scaling=precision.scaling.recipe,
        nonfinite_count=nonfinite_count,
        loss=now.loss if now is not None else recorded.loss,
        loss_before=losses[-1] if losses else None,
        best_loss=min(losses) if losses else None,
    )


def _divergence(opened: OpenedCheckpoint) -> tuple[int, str] | None:
    """(first step, words) of a divergence that the run's own monitor was flagging."""
    monitor = Divergence()
    try:
        monitor.load_state_dict(dict(opened.saved.monitors.watchers.get("divergence", {})))
        ratio = float(monitor.smoothed or 0.0) / float(monitor.best or math.inf)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        return None  # monitors were off, or say nothing that can be read
    if monitor.streak < monitor.steps:
        return None
    words = f"the smoothed loss has been above {monitor.factor} times its best for {monitor.streak} steps"
    return opened.step - monitor.streak, f"{words}, now {ratio:.2f} times"


def stalled_since(history: Sequence[Mapping[str, Scalar]]) -> int | None:
    """First step of the last 50 recorded ones where these show a stall collapse; None where they do not."""
    steps, transfers, stalls = (
        _numbers(history[-COLLAPSE_WINDOW:], name) for name in ("step", "update_transfer", "bit_stall_rate")
    )
    if min(map(len, (steps, transfers, stalls))) < COLLAPSE_WINDOW:
        return None
    stalled = fmean(transfers) <= COLLAPSE_TRANSFER and fmean(stalls) >= COLLAPSE_STALL
    return int(steps[0]) if stalled else None


def _numbers(history: Sequence[Mapping[str, Scalar]], name: str) -> list[float]:
    return [value for entry in history if isinstance(value := entry.get(name), int | float)]


def _stalls_now(now: Outcome | None) -> bool:
    if now is None or now.transfer is None or now.stall is None:
        return False
    return now.transfer <= COLLAPSE_TRANSFER and now.stall >= COLLAPSE_STALL


def _stall_words(since: int | None, history: Sequence[Mapping[str, Scalar]], now: Outcome | None) -> str:
    if since is not None:
        window = history[-COLLAPSE_WINDOW:]
        transfer = fmean(_numbers(window, "update_transfer"))
        stall = fmean(_numbers(window, "bit_stall_rate"))
        return f"over the last {COLLAPSE_WINDOW} steps mean tau {transfer:.4f} and mean bit-stall {stall:.4f}"
    if now is not None and now.transfer is not None and now.stall is not None:
        return f"in this step tau {now.transfer:.4f} and bit-stall {now.stall:.4f}"
    return "the stored weights stopped moving"


@dataclass(frozen=True, slots=True)
class SlotReport:
    """One slot of the update rule over all parameters."""

    nonfinite: int
    where: tuple[str, ...]
    """The parameters whose number is not finite."""
    amax: float
    zero_share: float


@dataclass(frozen=True, slots=True)
class OptimizerReport:
    """Whether the update rule's state is sound."""

    updates: int
    learning_rate: float
    slots: Mapping[str, SlotReport] = field(metadata={"merged": {}})
    negative: Mapping[str, int] = field(metadata={"merged": {}})
    """Numbers below 0 in the slots that may hold none, as ``negative_<slot>``."""
    sound: bool
    """Whether every number is finite, and of the sign that it has to have."""


def optimizer_report(given: ReplayState) -> OptimizerReport:
    """The update rule's state before the step."""
    rule = given.state.optimizer
    slots = {name: _slot_report(given.state, buffer) for name, buffer in rule.slots.items()}
    negative = {f"negative_{name}": int((rule.slots[name] < 0).sum()) for name in rule.nonnegative}
    sound = not (any(slot.nonfinite for slot in slots.values()) or any(negative.values()))
    return OptimizerReport(rule.steps, given.learning_rate, slots, negative, sound)


def _slot_report(state: TrainState, buffer: Tensor) -> SlotReport:
    finite = torch.isfinite(buffer)
    views = zip(state.flat.names, state.flat.views(finite), strict=True)
    return SlotReport(
        nonfinite=int((~finite).sum()),
        where=tuple(name for name, view in views if not bool(view.all())),
        amax=float(torch.where(finite, buffer, 0.0).abs().max()),
        zero_share=float((buffer == 0).float().mean()),
    )
