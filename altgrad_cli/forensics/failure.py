"""What failed and when, from what was recorded and from what the step itself shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from altgrad_cli.forensics.attempt import Outcome
from altgrad_cli.forensics.evidence import Evidence, Scalar
from altgrad_cli.forensics.scene import Scene
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


def history_of(evidence: Evidence) -> list[Mapping[str, Any]]:
    """The recorded scalars of the last steps, oldest first."""
    history = evidence.payload.get("history")
    if history is None:
        history = (evidence.payload.get("monitors") or {}).get("history")
    return [entry for entry in history or [] if isinstance(entry, Mapping)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What failed and when. None where it is not known."""

    kind: FailureClass = field(metadata={"key": "class"})
    step: int
    captured_at: int
    """The step that the checkpoint stands before."""
    captured_for: Scalar
    """The class that the run itself saw."""
    trigger: str
    recorded_trigger: Scalar
    format: str
    formats: tuple[tuple[int, str], ...]
    """(steps taken, the format in force after them), oldest first."""
    regime: str
    rounding: str
    overflow: str
    scaling: str
    nonfinite_count: int
    loss: Scalar
    loss_before: float | None
    best_loss: float | None


def classify(
    evidence: Evidence, first: FirstNonfinite | None, now: Outcome | None, nonfinite_count: int
) -> Failure:
    """What failed, by the trace first, then by what was recorded, then by what the step shows."""
    recorded: Mapping[str, Any] = evidence.payload.get("failure") or {}
    history = history_of(evidence)
    since = stalled_since(history)
    kind: FailureClass = NONE
    step, trigger = evidence.step, "nothing in this step is out of order"
    if recorded.get("class") == NONFINITE or first is not None:
        kind = NONFINITE
        trigger = first.words if first else str(recorded.get("trigger") or "a non-finite value")
    elif recorded.get("class") == STALL or since is not None or _stalls_now(now):
        kind = STALL
        onset, detected = recorded.get("stall_collapsed_at"), recorded.get("stall_detected_at")
        step = since if since is not None else evidence.step
        trigger = _stall_words(since, history, now)
        if isinstance(onset, int):
            step = detected if isinstance(detected, int) else onset
            words = onset_words(onset) if isinstance(detected, int) else f"in the window from step {onset}"
            trigger = f"stall collapse {words}; {trigger}"
    elif (diverging := _divergence(evidence)) is not None:
        kind, step, trigger = DIVERGENCE, *diverging
    losses = [entry["loss"] for entry in history if isinstance(entry.get("loss"), int | float)]
    precision = evidence.config.precision
    return Failure(
        kind=kind,
        step=step,
        captured_at=evidence.step,
        captured_for=recorded.get("class"),
        trigger=trigger,
        recorded_trigger=recorded.get("trigger"),
        format=evidence.payload["format"],
        formats=tuple((number, name) for number, name in evidence.payload["formats"]),
        regime=precision.regime,
        rounding=precision.rounding,
        overflow=precision.overflow,
        scaling=precision.scaling.recipe,
        nonfinite_count=nonfinite_count,
        loss=now.loss if now is not None else recorded.get("loss"),
        loss_before=losses[-1] if losses else None,
        best_loss=min(losses) if losses else None,
    )


def _divergence(evidence: Evidence) -> tuple[int, str] | None:
    """(first step, words) of a divergence that the run's own monitor was flagging."""
    watchers = (evidence.payload.get("monitors") or {}).get("watchers") or {}
    saved = watchers.get("divergence")
    monitor = Divergence()
    try:
        monitor.load_state_dict(dict(saved or {}))
        ratio = float(monitor.smoothed or 0.0) / float(monitor.best or math.inf)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        return None  # monitors were off, or say nothing that can be read
    if monitor.streak < monitor.steps:
        return None
    words = f"the smoothed loss has been above {monitor.factor} times its best for {monitor.streak} steps"
    return evidence.step - monitor.streak, f"{words}, now {ratio:.2f} times"


def stalled_since(history: Sequence[Mapping[str, Any]]) -> int | None:
    """First step of the last 50 recorded ones where these show a stall collapse; None where they do not."""
    window = [
        entry
        for entry in history[-COLLAPSE_WINDOW:]
        if isinstance(entry.get("update_transfer"), int | float)
        and isinstance(entry.get("bit_stall_rate"), int | float)
    ]
    if len(window) < COLLAPSE_WINDOW:
        return None
    transfer = statistics.fmean(entry["update_transfer"] for entry in window)
    stall = statistics.fmean(entry["bit_stall_rate"] for entry in window)
    return int(window[0]["step"]) if transfer <= COLLAPSE_TRANSFER and stall >= COLLAPSE_STALL else None


def _stalls_now(now: Outcome | None) -> bool:
    if now is None or now.transfer is None or now.stall is None:
        return False
    return now.transfer <= COLLAPSE_TRANSFER and now.stall >= COLLAPSE_STALL


def _stall_words(since: int | None, history: Sequence[Mapping[str, Any]], now: Outcome | None) -> str:
    if since is not None:
        window = history[-COLLAPSE_WINDOW:]
        transfer = statistics.fmean(entry["update_transfer"] for entry in window)
        stall = statistics.fmean(entry["bit_stall_rate"] for entry in window)
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
    slots: Mapping[str, SlotReport]
    negative: Mapping[str, int]
    """Numbers below 0 in the slots that may hold none."""

    @property
    def sound(self) -> bool:
        """Whether every number is finite, and of the sign that it has to have."""
        return not (any(slot.nonfinite for slot in self.slots.values()) or any(self.negative.values()))

    def to_json(self) -> dict[str, Any]:
        """The ``optimizer`` of the diagnosis."""
        return {
            "updates": self.updates,
            "learning_rate": self.learning_rate,
            **self.slots,
            **{f"negative_{name}": count for name, count in self.negative.items()},
            "sound": self.sound,
        }


def optimizer_report(scene: Scene) -> OptimizerReport:
    """The update rule's state before the step."""
    rule = scene.state.optimizer
    return OptimizerReport(
        updates=rule.steps,
        learning_rate=scene.learning_rate,
        slots={name: _slot_report(scene.state, buffer) for name, buffer in rule.slots.items()},
        negative={name: int((rule.slots[name] < 0).sum()) for name in rule.nonnegative},
    )


def _slot_report(state: TrainState, buffer: Tensor) -> SlotReport:
    finite = torch.isfinite(buffer)
    views = zip(state.flat.names, state.flat.views(finite), strict=True)
    return SlotReport(
        nonfinite=int((~finite).sum()),
        where=tuple(name for name, view in views if not bool(view.all())),
        amax=float(torch.where(finite, buffer, 0.0).abs().max()),
        zero_share=float((buffer == 0).float().mean()),
    )
