"""From samples to a verdict: the interval decides, and what it cannot decide is not decided."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues, check, judge

ABOVE = Condition("gap", "above", 0.05, "nats")
BELOW = Condition("gap", "below", 0.05, "nats")
PREMISE = Condition("ends", "above", 0.1, "nats", premise=True)


def test_the_interval_is_the_paired_student_interval() -> None:
    values = (0.20, 0.24, 0.22)
    interval = SeedValues(values).interval
    assert interval.mean == fmean(values)
    assert interval.half_width == pytest.approx(4.303 * stdev(values) / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "above", "below"),
    [
        ((0.20, 0.24, 0.22), True, False),
        ((0.01, 0.02, 0.01), False, True),
        ((0.04, 0.06, 0.05), None, None),  # around the bound
        ((0.01, 0.05, 0.20), None, None),  # every seed says something else
        ((0.3,), None, None),  # one seed has no interval
        ((math.inf, math.inf, math.inf), True, False),  # every run came to nothing
        ((0.2, 0.2, math.inf), None, None),
        ((0.2, 0.2, math.nan), None, None),
    ],
)
def test_a_condition_needs_the_whole_interval(
    values: tuple[float, ...], above: bool | None, below: bool | None
) -> None:
    assert (check(ABOVE, SeedValues(values)).holds, check(BELOW, SeedValues(values)).holds) == (above, below)


def test_what_no_seed_could_change_needs_no_interval() -> None:
    assert check(ABOVE, SeedValues((0.06,), exact=True)).holds is True
    assert check(ABOVE, SeedValues((0.05,), exact=True)).holds is False  # at the bound is not above it


@pytest.mark.parametrize(
    ("ends", "gap", "verdict"),
    [
        (0.3, (0.2, 0.2, 0.2), "agrees"),
        (0.3, (0.0, 0.0, 0.0), "disagrees"),
        (0.3, (0.0, 0.05, 0.2), "cannot tell"),
        (0.05, (0.2, 0.2, 0.2), "cannot tell"),
        (0.05, (0.0, 0.0, 0.0), "cannot tell"),
    ],
)
def test_a_verdict_takes_every_condition_and_the_premises_first(
    ends: float, gap: tuple[float, ...], verdict: str
) -> None:
    measurement = Measurement((SeedValues((ends,) * 3), SeedValues(gap)))
    assert judge((PREMISE, ABOVE), measurement).verdict == verdict


def test_one_contradicted_condition_is_enough() -> None:
    measurement = Measurement(
        (SeedValues((0.2, 0.2, 0.2)), SeedValues((0.0, 0.05, 0.2)), SeedValues((0.2, 0.2, 0.2)))
    )
    assert judge((ABOVE, ABOVE, BELOW), measurement).verdict == "disagrees"


def test_as_many_samples_as_conditions() -> None:
    with pytest.raises(ValueError):
        judge((ABOVE, BELOW), Measurement((SeedValues((0.2,)),)))


@pytest.mark.parametrize(
    ("measurement", "scope"),
    [
        (Measurement((), (42,), ("a text",), (1e-3,)), "one seed, one text, one rate"),
        (Measurement((), (42, 43), ("a text",), (1e-3, 2e-3)), "2 seeds, one text, 2 rates"),
        (Measurement((), (0, 1)), "2 draws, no training"),
        (Measurement(()), "arithmetic, nothing is drawn"),
    ],
)
def test_what_it_was_measured_on_is_said(measurement: Measurement, scope: str) -> None:
    assert measurement.scope == scope
