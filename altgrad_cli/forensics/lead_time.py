"""Which monitored quantity left its band first, and how many steps before the failure.

A band ends where a quantity has never been in the older half of the recorded steps, and six median absolute
deviations beyond their median, on the side that its ``MetricSpec`` calls bad. Its alert's level counts too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from altgrad_cli.metrics.catalogue import spec_of
from altgrad_cli.metrics.spec import MetricSpec

MIN_STEPS = 12
"""Steps of history below which no band can be drawn."""
_WIDTH = 6.0


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


def lead_time(history: Sequence[Mapping[str, Any]], failed_at: int) -> LeadTime:
    """What left its band before the step ``failed_at``.

    Args:
        history: one mapping of scalars per step, oldest first, each with its ``step``.
        failed_at: number of the failing step; its own record, if there is one, is left out.
    """
    steps = [entry for entry in history if isinstance(entry.get("step"), int) and entry["step"] < failed_at]
    if len(steps) < MIN_STEPS:
        return LeadTime(len(steps), (), None, "too few steps for a band")
    recorded = {name: spec_of(name) for entry in steps for name in entry}
    watched = {name: spec for name, spec in recorded.items() if spec is not None and spec.bad is not None}
    departures: list[Departure] = []
    for name, spec in watched.items():
        series = [(int(entry["step"]), float(entry[name])) for entry in steps if _is_number(entry.get(name))]
        rules = {"band": _band(spec, series), "threshold": _threshold(spec, series)}
        departures += [
            Departure(
                name, spec.unit, left.step, failed_at - left.step, left.value, left.low, left.high, rule
            )
            for rule, left in rules.items()
            if left is not None
        ]
    departures.sort(key=lambda departure: (departure.step, departure.metric))
    note = None if departures else "sudden: no quantity had left its band before the step"
    return LeadTime(len(steps), tuple(departures), departures[0] if departures else None, note)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Left(NamedTuple):
    """Where a series left its band, and the band."""

    step: int
    value: float
    low: float | None
    high: float | None


def _band(spec: MetricSpec, series: Sequence[tuple[int, float]]) -> _Left | None:
    if len(series) < MIN_STEPS:
        return None
    half = len(series) // 2
    calm = [value for _, value in series[:half] if math.isfinite(value)]
    if len(calm) < MIN_STEPS // 2:
        return None
    middle = statistics.median(calm)
    spread = statistics.median(abs(value - middle) for value in calm)
    # Never narrower than what the calm half itself did: a band is no outlier test.
    if spec.bad == "low":
        return _still_outside(series[half:], min(middle - _WIDTH * spread, *calm), None)
    return _still_outside(series[half:], None, max(middle + _WIDTH * spread, *calm))


def _threshold(spec: MetricSpec, series: Sequence[tuple[int, float]]) -> _Left | None:
    if spec.alert is None or not series or series[0][1] > spec.alert.above:
        return None  # beyond it from the start: no sign of what is to come
    return _still_outside(series, None, spec.alert.above)


def _still_outside(
    series: Sequence[tuple[int, float]], low: float | None, high: float | None
) -> _Left | None:
    """The first step of the last stretch outside, if that stretch lasts to the end."""
    left = None
    for step, value in reversed(series):
        if (low is None or value >= low) and (high is None or value <= high):
            break
        left = _Left(step, value, low, high)
    return left
