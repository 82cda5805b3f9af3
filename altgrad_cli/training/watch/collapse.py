"""Collapse without a NaN: a frozen model, a diverging loss, a loss that only rises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from altgrad_cli.metrics.thresholds import (
    COLLAPSE_STALL,
    COLLAPSE_TRANSFER,
    COLLAPSE_WINDOW,
    DIVERGENCE_FACTOR,
    RISING_STEPS,
)


def is_full_speed(step: int, warmup_steps: int, learning_rate: float, peak_learning_rate: float) -> bool:
    """Whether a step counts for collapse: after warm-up (steps count from 1), at half the peak rate or more.

    During warm-up and at the end of a decay every format stalls, for the updates are small by intent.
    """
    return step > warmup_steps and learning_rate >= peak_learning_rate / 2


class StallStretch:
    """The unbroken stretch of 50-step windows whose mean tau is <= 0.03 and mean bit-stall >= 0.98.

    Both are needed. A bit-stall above 0.94 is normal for formats that still learn, through the few weights
    that do move; tau says how much of the update arrived.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, float]] = []
        self.since: int | None = None
        """First step of the stretch's first window; None where the last window does not meet the rule."""

    def update(self, step: int, transfer: float | None, stall_rate: float | None) -> int | None:
        """Take in one step, ``since`` after it. A step that was not measured ends the stretch."""
        if transfer is None or stall_rate is None:
            self.steps, self.since = [], None
            return None
        self.steps = [*self.steps, (step, float(transfer), float(stall_rate))][-COLLAPSE_WINDOW:]
        mean_transfer = math.fsum(tau for _, tau, _ in self.steps) / COLLAPSE_WINDOW
        mean_stall = math.fsum(stall for _, _, stall in self.steps) / COLLAPSE_WINDOW
        if len(self.steps) < COLLAPSE_WINDOW or not (
            mean_transfer <= COLLAPSE_TRANSFER and mean_stall >= COLLAPSE_STALL
        ):
            self.since = None
        elif self.since is None:
            self.since = self.steps[0][0]
        return self.since


def stall_onset(steps: Iterable[tuple[int, float | None, float | None]], detected: int) -> int | None:
    """Onset of a stall collapse detected at step ``detected``, from (step, tau, bit-stall) in order.

    None where the steps up to there do not show one. A step left out ends a stretch as an unmeasured one.
    """
    stretch, last = StallStretch(), None
    for step, transfer, stall_rate in steps:
        if step > detected:
            break
        if last is not None and step != last + 1:
            stretch = StallStretch()
        stretch.update(step, transfer, stall_rate)
        last = step
    return stretch.since if last == detected else None


def collapse_words(collapse: Mapping[str, Any]) -> str:
    """``stall collapse from the start, detected at step 150``, from what a run's log keeps of a collapse."""
    name = str(collapse["class"]).replace("_", " ")
    words = f"{name} {onset_words(collapse.get('step'))}"
    detected = collapse.get("detected")
    return words if detected is None else f"{words}, detected at step {detected}"


def onset_words(step: int | None) -> str:
    """``from the start`` for step 1, else ``from step 31``."""
    return "from the start" if step == 1 else f"from step {step}"


class StallCollapse:
    """The weights stopped moving: 50 steps at full speed whose window meets the rule of ``StallStretch``.

    Warm-up and slow steps cannot show a collapse, for there every format stalls. But once it is detected, it
    began where the unbroken stretch of such windows began, and that stretch may reach back into the warm-up.
    """

    def __init__(self) -> None:
        self.stretch = StallStretch()
        self.full_speed_steps = 0
        self.detected: int | None = None
        """The step at whose end the collapse was detected."""
        self.onset: int | None = None
        """The first step of the unbroken stretch of windows that meet the rule."""

    def update(
        self, step: int, transfer: float | None, stall_rate: float | None, *, full_speed: bool
    ) -> int | None:
        """Take in one step; its number if the collapse is detected at it (once), else None.

        Args:
            step: number of the step.
            transfer: update transfer tau pooled over the layers.
            stall_rate: bit-stall rate pooled over the layers.
            full_speed: ``is_full_speed``; a step that does not count or was not measured starts the 50 anew.
        """
        since = self.stretch.update(step, transfer, stall_rate)
        measured = transfer is not None and stall_rate is not None
        self.full_speed_steps = self.full_speed_steps + 1 if full_speed and measured else 0
        if self.detected is not None or self.full_speed_steps < COLLAPSE_WINDOW or since is None:
            return None
        self.detected, self.onset = step, since
        return step

    def reset(self) -> None:
        """Empty the window and forget the collapse, as after a shift."""
        self.__init__()  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": [list(entry) for entry in self.stretch.steps],
            "since": self.stretch.since,
            "full_speed_steps": self.full_speed_steps,
            "detected": self.detected,
            "onset": self.onset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` stands, one written before the onset was kept included."""
        self.stretch.steps = [(int(step), float(tau), float(stall)) for step, tau, stall in state["steps"]]
        if "onset" in state:
            self.stretch.since, self.full_speed_steps = state["since"], int(state["full_speed_steps"])
            self.detected, self.onset = state["detected"], state["onset"]
            return
        # Then the steps are those at full speed, and a collapse was known by the first step of its window.
        self.full_speed_steps = len(self.stretch.steps)
        if self.stretch.steps:
            self.stretch.update(*self.stretch.steps.pop())
        self.onset = state["collapsed_at"]
        self.detected = None if self.onset is None else self.onset + COLLAPSE_WINDOW - 1


class Divergence:
    """The smoothed loss stays above 1.5 times its best for 50 steps in a row. A flag; it stops nothing.

    Args:
        smoothing: weight of the past in the exponential mean of the loss.
    """

    def __init__(
        self, *, factor: float = DIVERGENCE_FACTOR, steps: int = COLLAPSE_WINDOW, smoothing: float = 0.9
    ) -> None:
        self.factor = factor
        self.steps = steps
        self.smoothing = smoothing
        self.smoothed: float | None = None
        self.best: float | None = None
        self.streak = 0

    def update(self, loss: float) -> bool:
        """Take in one step's loss; whether the run is diverging now. A non-finite loss is left out."""
        if math.isfinite(loss):
            keep = self.smoothing
            self.smoothed = loss if self.smoothed is None else keep * self.smoothed + (1 - keep) * loss
            self.best = self.smoothed if self.best is None else min(self.best, self.smoothed)
            self.streak = self.streak + 1 if self.smoothed > self.factor * self.best else 0
        return self.streak >= self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"smoothed": self.smoothed, "best": self.best, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.smoothed, self.best, self.streak = state["smoothed"], state["best"], int(state["streak"])


class RisingLoss:
    """The loss rose in each of the last 10 steps."""

    def __init__(self, *, steps: int = RISING_STEPS) -> None:
        self.steps = steps
        self.previous: float | None = None
        self.streak = 0

    def update(self, loss: float) -> bool:
        """Take in one step's loss; whether it has been rising for that long. NaN ends the rise."""
        rising = self.previous is not None and loss > self.previous
        self.streak = self.streak + 1 if rising else 0
        self.previous = loss
        return self.streak >= self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self.previous, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.previous, self.streak = state["previous"], int(state["streak"])
