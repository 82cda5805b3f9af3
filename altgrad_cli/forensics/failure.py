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
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.thresholds import COLLAPSE_STALL, COLLAPSE_TRANSFER, COLLAPSE_WINDOW
from altgrad_cli.surgery.precision_plan import recipe_for
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
    window = stalled_window(history)
    effect = None if now is None or now.transfer is None or now.stall is None else (now.transfer, now.stall)
    kind: FailureClass = NONE
    step, trigger = opened.step, "nothing in this step is out of order"
    if recorded.kind == NONFINITE or first is not None:
        kind = NONFINITE
        trigger = first.words if first else recorded.trigger or "a non-finite value"
    elif recorded.kind == STALL or window or (effect and _is_stalled(*effect)):
        kind = STALL
        onset, detected = recorded.stall_collapsed_at, recorded.stall_detected_at
        trigger = "the stored weights stopped moving"
        if window is not None:
            step, transfer, stall = window
            means = f"mean tau {transfer:.4f} and mean bit-stall {stall:.4f}"
            trigger = f"over the last {COLLAPSE_WINDOW} steps {means}"
        elif effect is not None:
            trigger = "in this step tau {:.4f} and bit-stall {:.4f}".format(*effect)
        if onset is not None:
            step = onset if detected is None else detected
            words = f"in the window from step {onset}" if detected is None else onset_words(onset)
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
        scaling=recipe_for(parse_format(saved.format), precision.scaling.recipe),
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


def stalled_window(history: Sequence[Mapping[str, Scalar]]) -> tuple[int, float, float] | None:
    """(first step, mean tau, mean bit-stall) of the last 50 steps where these show a stall collapse."""
    steps, transfers, stalls = (
        _numbers(history[-COLLAPSE_WINDOW:], name) for name in ("step", "update_transfer", "bit_stall_rate")
    )
    if min(map(len, (steps, transfers, stalls))) < COLLAPSE_WINDOW:
        return None
    transfer, stall = fmean(transfers), fmean(stalls)
    return (int(steps[0]), transfer, stall) if _is_stalled(transfer, stall) else None


def _is_stalled(transfer: float, stall: float) -> bool:
    return transfer <= COLLAPSE_TRANSFER and stall >= COLLAPSE_STALL


def _numbers(history: Sequence[Mapping[str, Scalar]], name: str) -> list[float]:
    return [value for entry in history if isinstance(value := entry.get(name), int | float)]


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
