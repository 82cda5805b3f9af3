"""Which monitored quantity left its band first, and how many steps before the failure.

A band ends where a quantity has never been in the older half of the recorded steps, and six median absolute
deviations beyond their median, on the side that its ``MetricSpec`` calls bad. Its alert's level counts too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from altgrad_cli.checkpoints.payload import Scalar
from altgrad_cli.metrics.catalogue import spec_of
from altgrad_cli.metrics.spec import MetricSpec

MIN_STEPS = 12
"""Steps of history below which no band can be drawn."""
_WIDTH = 6.0
Points = Sequence[tuple[int, float]]
"""(step, value), ascending."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A quantity that left its band and was still outside at the end."""

    metric: str
    unit: str | None
    step: int
    steps_before: int
    value: float | str
    low: float | None
    high: float | None
    rule: str
    """``band`` or ``threshold``."""


@dataclass(frozen=True, slots=True)
class LeadTime:
    """The departures in the order in which they happened."""

    steps_recorded: int
    departures: tuple[Departure, ...]
    first: Departure | None
    note: str | None
    """Why there is none."""


def lead_time(history: Sequence[Mapping[str, Scalar]], failed_at: int) -> LeadTime:
    """What left its band before the step ``failed_at``.

    Args:
        history: one mapping of scalars per step, oldest first, each with its ``step``.
        failed_at: number of the failing step; its own record, if there is one, is left out.
    """
    steps = [(n, entry) for entry in history if isinstance(n := entry.get("step"), int) and n < failed_at]
    if len(steps) < MIN_STEPS:
        return LeadTime(len(steps), (), None, "too few steps for a band")
    measured: dict[str, list[tuple[int, float]]] = {}
    for number, entry in steps:
        for name, scalar in entry.items():
            if isinstance(scalar, int | float) and not isinstance(scalar, bool):
                measured.setdefault(name, []).append((number, float(scalar)))
    departures: list[Departure] = []
    for name, series in measured.items():
        spec = spec_of(name)
        if spec is None or spec.bad is None:
            continue
        for rule, tail, low, high in _limits(spec, series):
            left = _still_outside(tail, low, high)
            if left is not None:
                step, outside = left
                departures.append(
                    Departure(name, spec.unit, step, failed_at - step, outside, low, high, rule)
                )
    departures.sort(key=lambda departure: (departure.step, departure.metric))
    note = None if departures else "sudden: no quantity had left its band before the step"
    return LeadTime(len(steps), tuple(departures), departures[0] if departures else None, note)


def _limits(spec: MetricSpec, series: Points) -> Iterator[tuple[str, Points, float | None, float | None]]:
    """(rule, the steps that it judges, low, high) of each rule that can judge ``series``."""
    half = len(series) // 2
    calm = [value for _, value in series[:half] if math.isfinite(value)]
    if len(series) >= MIN_STEPS and len(calm) >= MIN_STEPS // 2:
        middle = statistics.median(calm)
        width = _WIDTH * statistics.median(abs(value - middle) for value in calm)
        # Never narrower than what the calm half itself did: a band is no outlier test.
        low, high = min(middle - width, *calm), max(middle + width, *calm)
        yield "band", series[half:], *((low, None) if spec.bad == "low" else (None, high))
    if spec.alert is not None and series and not series[0][1] > spec.alert.above:
        # Beyond it from the start is no sign of what is to come.
        yield "threshold", series, None, spec.alert.above


def _still_outside(series: Points, low: float | None, high: float | None) -> tuple[int, float] | None:
    """The first step of the last stretch outside, and its value, if that stretch lasts to the end."""
    left = None
    for step, value in reversed(series):
        if (low is None or value >= low) and (high is None or value <= high):
            break
        left = step, value
    return left
