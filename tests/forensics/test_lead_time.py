"""Bands and thresholds on series whose first departure is known."""

from __future__ import annotations

import math
from typing import Any

import pytest

from altgrad_cli.checkpoints.payload import to_plain
from altgrad_cli.forensics.lead_time import lead_time
from altgrad_cli.metrics.catalogue import METRICS


def judged(series: list[dict[str, Any]], failed_at: int) -> dict[str, Any]:
    """The ``lead_time`` of the document."""
    document: dict[str, Any] = to_plain(lead_time(series, failed_at))
    return document


def history(steps: int, **series: Any) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 3.0, **{name: rule(step) for name, rule in series.items()}}
        for step in range(1, steps + 1)
    ]


def noisy(step: int) -> float:
    return 1.0 + 0.1 * math.sin(step * 2.4)


def test_the_first_to_leave_is_named_with_its_lead() -> None:
    found = judged(
        history(
            60,
            gradient_norm=lambda n: noisy(n) * (5.0 if n >= 50 else 1.0),
            **{"amax/gradients": lambda n: noisy(n) * (20.0 if n >= 44 else 1.0)},
        ),
        failed_at=61,
    )
    assert [entry["metric"] for entry in found["departures"]] == ["amax/gradients", "gradient_norm"]
    assert found["first"]["step"] == 44
    assert found["first"]["steps_before"] == 17
    assert found["note"] is None


def test_what_came_back_into_its_band_does_not_count() -> None:
    found = judged(history(60, gradient_norm=lambda n: 50.0 if n == 45 else noisy(n)), failed_at=61)
    assert found["first"] is None
    assert found["note"] is not None and found["note"].startswith("sudden")


@pytest.mark.parametrize("name", [name for name, spec in METRICS.items() if spec.bad])
def test_every_metric_with_a_bad_side_can_be_the_first_to_leave(name: str) -> None:
    factor = 9.0 if METRICS[name].bad == "high" else 1 / 9
    found = judged(history(60, **{name: lambda n: noisy(n) * (factor if n > 40 else 1)}), failed_at=61)
    assert (found["first"]["metric"], found["first"]["step"]) == (name, 41)
    assert found["first"]["unit"] == METRICS[name].unit


def test_a_metric_without_a_bad_side_is_no_departure() -> None:
    assert METRICS["apparent_stall_rate"].bad is None
    jump = {"apparent_stall_rate": lambda n: noisy(n) * (9 if n > 40 else 1)}
    assert judged(history(60, **jump), failed_at=61)["first"] is None


def test_a_quantity_has_one_bad_side() -> None:
    falling = judged(history(60, gradient_norm=lambda n: noisy(n) / (9 if n > 40 else 1)), failed_at=61)
    assert falling["first"] is None
    quiet = judged(history(60, gradient_cosine=lambda n: noisy(n) / (9 if n > 40 else 1)), failed_at=61)
    assert quiet["first"]["metric"] == "gradient_cosine"
    assert quiet["first"]["low"] is not None and quiet["first"]["high"] is None


def test_a_threshold_counts_even_where_the_band_is_wide() -> None:
    rates = {"overflow_rate/gradients": lambda n: 0.002 * (n % 5) if n < 55 else 0.02}
    found = judged(history(60, **rates), failed_at=61)
    rules = {entry["rule"]: entry["step"] for entry in found["departures"]}
    assert rules["threshold"] == 55


def test_a_nan_is_outside_every_band() -> None:
    found = judged(history(60, gradient_norm=lambda n: math.nan if n >= 58 else noisy(n)), failed_at=61)
    assert found["first"]["step"] == 58


def test_the_failing_step_itself_is_no_lead() -> None:
    found = judged(history(60, gradient_norm=lambda n: 99.0 if n == 60 else noisy(n)), failed_at=60)
    assert found["first"] is None
    assert found["steps_recorded"] == 59


def test_few_steps_draw_no_band() -> None:
    found = judged(history(11, gradient_norm=noisy), failed_at=12)
    assert found["departures"] == []
    assert found["note"] == "too few steps for a band"


def test_what_is_missing_or_a_word_is_left_out() -> None:
    entries = history(60, gradient_norm=noisy)
    for entry in entries[40:]:
        entry["gradient_norm"] = None
        entry["outcome"] = "failed"
    entries.append({"no step": 1})
    assert judged(entries, failed_at=61)["first"] is None
