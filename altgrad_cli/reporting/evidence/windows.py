"""The stretch of steps over which a report states a run's rates, and the moments at which it looks."""

from __future__ import annotations

from dataclasses import dataclass

from altgrad_cli.metrics.thresholds import COLLAPSE_WINDOW
from altgrad_cli.runs.record import RunRecord

TREND = 5
"""Measurements that a trend shows."""


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``first`` to ``last``, both included."""

    first: int
    last: int
    what: str
    """What the window is, in words."""

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.first != self.last else str(self.first)

    @property
    def range(self) -> str:
        """For a quantity: ``@first-last``."""
        return f"@{self}"


def collapse_step(log: RunRecord) -> int | None:
    """The step at which a run's collapse was detected or, of a non-finite one, began; None without one."""
    collapse = log.collapse or {}
    step = collapse.get("detected", collapse.get("step"))
    return int(step) if step is not None else None


def telling_window(log: RunRecord) -> Window:
    """Where a run's trouble shows: the collapse window, the steps before a non-finite one, or the end."""
    step = collapse_step(log)
    detected = (log.collapse or {}).get("detected")
    if detected is not None:
        first = max(1, detected - COLLAPSE_WINDOW + 1)
        return Window(first, detected, "the window in which the collapse was detected")
    if step is not None and step > 1:
        return Window(max(1, step - COLLAPSE_WINDOW), step - 1, "the steps before the collapse")
    return Window(max(1, log.last_step - COLLAPSE_WINDOW + 1), max(1, log.last_step), "the end of the run")


def diagnostic_steps(log: RunRecord) -> list[int]:
    """The last ``TREND`` steps at which interval diagnostics were due, or failing those the evaluations."""
    interval = int(log.config.get("diagnostic_interval") or 0)
    due = [int(step) for step in log.steps if interval and step % interval == 0]
    if not due:
        due = [step for step, _ in log.validation if step > 0]
    return (due or [int(step) for step in log.steps])[-TREND:]
