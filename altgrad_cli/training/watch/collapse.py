"""Collapse without a NaN: a frozen model, a diverging loss, a loss that only rises."""

from __future__ import annotations

import math
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


class StallCollapse:
    """The weights stopped moving: mean tau <= 0.03 and mean bit-stall >= 0.98 over 50 steps.

    Both are needed. A bit-stall above 0.94 is normal for formats that still learn, through the few weights
    that do move; tau says how much of the update arrived.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, float]] = []
        self.collapsed_at: int | None = None

    def update(
        self, step: int, transfer: float | None, stall_rate: float | None, *, full_speed: bool
    ) -> int | None:
        """Take in one step; the step the collapse is dated to (the window's first), once, else None.

        Args:
            step: number of the step.
            transfer: update transfer tau pooled over the layers.
            stall_rate: bit-stall rate pooled over the layers.
            full_speed: ``is_full_speed``; a step that does not count or was not measured empties the window.
        """
        if transfer is None or stall_rate is None or not full_speed:
            self.steps = []
            return None
        self.steps = [*self.steps, (step, float(transfer), float(stall_rate))][-COLLAPSE_WINDOW:]
        if self.collapsed_at is not None or len(self.steps) < COLLAPSE_WINDOW:
            return None
        mean_transfer = math.fsum(tau for _, tau, _ in self.steps) / COLLAPSE_WINDOW
        mean_stall = math.fsum(stall for _, _, stall in self.steps) / COLLAPSE_WINDOW
        if mean_transfer <= COLLAPSE_TRANSFER and mean_stall >= COLLAPSE_STALL:
            self.collapsed_at = self.steps[0][0]
        return self.collapsed_at

    def reset(self) -> None:
        """Empty the window and forget the collapse, as after a shift."""
        self.steps, self.collapsed_at = [], None

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [list(entry) for entry in self.steps], "collapsed_at": self.collapsed_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = [(int(step), float(tau), float(stall)) for step, tau, stall in state["steps"]]
        self.collapsed_at = state["collapsed_at"]


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
