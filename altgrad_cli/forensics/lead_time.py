"""Which monitored quantity left its band first, and how many steps before the failure.

A band ends where a quantity has never been in the older half of the recorded steps, and six median absolute
deviations beyond their median, on the side that is bad for it. The fixed thresholds of the alerts count too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from altgrad_cli.metrics.catalogue import spec_of

MIN_STEPS = 12
"""Steps of history below which no band can be drawn."""
_WIDTH = 6.0
_BAD_WHEN_HIGH = (
    "loss",
    "gradient_norm",
    "gradient_linf",
    "amax",
    "overflow_rate",
    "clipped_rate",
    "underflow_rate",
    "subnormal_fraction",
    "nonfinite_inputs",
    "nonfinite_gradients",
    "gradient_sparsity",
    "dead_neurons",
    "bit_stall_rate",
    "zero_update_fraction",
    "persistent_stall",
    "zero_share",
    "top_binade_share",
)
_BAD_WHEN_LOW = (
    "update_transfer",
    "flip_rate",
    "gradient_cosine",
    "gradient_sqnr",
    "gradient_norm_ratio",
    "gradient_sign_agreement",
    "codes_used",
    "code_entropy",
)
_FIXED = {"overflow_rate": 0.01, "underflow_rate": 0.01, "bit_stall_rate": 0.5}


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

    def to_json(self) -> dict[str, Any]:
        """One entry of ``lead_time.departures``."""
        return asdict(self)


def lead_time(history: Sequence[Mapping[str, Any]], failed_at: int) -> dict[str, Any]:
    """The ``lead_time`` of the diagnosis: departures in the order in which they happened.

    Args:
        history: one mapping of scalars per step, oldest first, each with its ``step``.
        failed_at: number of the failing step; its own record, if there is one, is left out.
    """
    steps = [entry for entry in history if isinstance(entry.get("step"), int) and entry["step"] < failed_at]
    if len(steps) < MIN_STEPS:
        return {
            "steps_recorded": len(steps),
            "departures": [],
            "first": None,
            "note": "too few steps for a band",
        }
    watched = (*_BAD_WHEN_HIGH, *_BAD_WHEN_LOW)
    names = sorted({name for entry in steps for name in entry if name.partition("/")[0] in watched})
    departures: list[Departure] = []
    for name in names:
        series = [(int(entry["step"]), float(entry[name])) for entry in steps if _is_number(entry.get(name))]
        departures += [
            found for found in (_band(name, series, failed_at), _threshold(name, series, failed_at)) if found
        ]
    departures.sort(key=lambda found: (found.step, found.metric))
    return {
        "steps_recorded": len(steps),
        "departures": [found.to_json() for found in departures],
        "first": departures[0].to_json() if departures else None,
        "note": None if departures else "sudden: no quantity had left its band before the step",
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _band(name: str, series: Sequence[tuple[int, float]], failed_at: int) -> Departure | None:
    if len(series) < MIN_STEPS:
        return None
    half = len(series) // 2
    calm = [value for _, value in series[:half] if math.isfinite(value)]
    if len(calm) < MIN_STEPS // 2:
        return None
    middle = statistics.median(calm)
    spread = statistics.median(abs(value - middle) for value in calm)
    # Never narrower than what the calm half itself did: a band is no outlier test.
    if name.partition("/")[0] in _BAD_WHEN_LOW:
        low = min(middle - _WIDTH * spread, *calm)
        return _still_outside(name, series[half:], failed_at, low, None, "band")
    high = max(middle + _WIDTH * spread, *calm)
    return _still_outside(name, series[half:], failed_at, None, high, "band")


def _threshold(name: str, series: Sequence[tuple[int, float]], failed_at: int) -> Departure | None:
    limit = _FIXED.get(name.partition("/")[0])
    if limit is None or not series or series[0][1] > limit:
        return None  # beyond it from the start: no sign of what is to come
    return _still_outside(name, series, failed_at, None, limit, "threshold")


def _still_outside(
    name: str,
    series: Sequence[tuple[int, float]],
    failed_at: int,
    low: float | None,
    high: float | None,
    rule: str,
) -> Departure | None:
    """The first step of the last stretch outside, if that stretch lasts to the end."""
    first: tuple[int, float] | None = None
    for step, value in reversed(series):
        inside = (low is None or value >= low) and (high is None or value <= high)
        if inside:
            break
        first = (step, value)
    if first is None:
        return None
    spec = spec_of(name)
    return Departure(
        metric=name,
        unit=None if spec is None else spec.unit,
        step=first[0],
        steps_before=failed_at - first[0],
        value=first[1],
        low=low,
        high=high,
        rule=rule,
    )
