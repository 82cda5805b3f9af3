"""Recovered fraction, perplexity, verdict and cause over plain numbers."""

from __future__ import annotations

import math
import random

import pytest

from altgrad_cli.metrics.verdict import (
    Symptoms,
    find_cause,
    grades_between,
    judge,
    perplexity,
    recovered_fraction,
    steps_to_reach,
)


def test_recovered_fraction():
    assert recovered_fraction(2.5, frozen=3.0, fp32=2.0) == 0.5
    assert recovered_fraction(2.0, frozen=3.0, fp32=2.0) == 1.0
    assert recovered_fraction(3.5, frozen=3.0, fp32=2.0) == -0.5
    assert recovered_fraction(2.5, frozen=2.0, fp32=2.0) is None
    assert recovered_fraction(2.5, frozen=math.nan, fp32=2.0) is None
    assert math.isnan(recovered_fraction(math.nan, frozen=3.0, fp32=2.0))
    assert recovered_fraction(math.inf, frozen=3.0, fp32=2.0) == -math.inf


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf
    assert perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


@pytest.mark.parametrize(
    "rho, grade, borderline",
    [
        (1.08, "trained", False),
        (0.95, "trained", True),
        (0.9, "trained", True),
        (0.89, "degraded", True),
        (0.7, "degraded", False),
        (0.5, "degraded", True),
        (0.49, "failed", True),
        (0.2, "failed", False),
        (-1.0, "failed", False),
        (math.nan, "failed", False),
        (-math.inf, "failed", False),
    ],
)
def test_grades_and_their_edges(rho, grade, borderline):
    verdict = judge(rho, Symptoms())
    assert (verdict.grade, verdict.borderline, verdict.suspected) == (grade, borderline, False)
    assert verdict.cause == (None if grade == "trained" else "unexplained")


def test_nonfinite_fails_whatever_rho_says():
    verdict = judge(0.95, Symptoms(nonfinite=True))
    assert (verdict.grade, verdict.cause, verdict.borderline) == ("failed", "nonfinite", False)


def test_without_a_control_the_grade_is_open_and_the_cause_suspected():
    verdict = judge(None, Symptoms(median_transfer=0.01))
    assert (verdict.grade, verdict.cause, verdict.suspected) == (None, "stalled", True)
    verdict = judge(None, Symptoms(median_transfer=0.99))
    assert (verdict.grade, verdict.cause, verdict.suspected) == (None, None, False)


ALL_AT_ONCE = {
    "nonfinite": {"nonfinite": True},
    "diverged": {"diverged": True},
    "underflowed": {"underflow": {"gradients": 0.5}},
    "saturated": {"overflow": {"activations": 0.1}},
    "stalled": {"median_transfer": 0.3},
}


def test_the_first_cause_that_holds_is_named():
    symptoms = {}
    for cause, signs in reversed(ALL_AT_ONCE.items()):
        symptoms |= signs
        assert find_cause(Symptoms(**symptoms)) == cause


@pytest.mark.parametrize(
    "signs, cause",
    [
        ({"underflow": {"gradients": 0.49, "weights": None}}, "unexplained"),
        ({"stored_zero_share": 0.5}, "underflowed"),
        ({"overflow": {"activations": 0.09}}, "unexplained"),
        ({"median_transfer": 0.31}, "slowed"),
        ({"median_transfer": 0.6}, "slowed"),
        ({"median_transfer": 0.61}, "unexplained"),
        ({"median_transfer": None}, "unexplained"),
    ],
)
def test_edges_of_the_causes(signs, cause):
    assert find_cause(Symptoms(**signs)) == cause


def test_steps_to_reach_against_a_walk_along_the_curve():
    """The first point, in steps of 1/8, at which the drawn running minimum is down at the loss."""
    draw = random.Random(0)
    for _ in range(30):
        curve = [(50 * k, 4.0 - 0.4 * k + draw.uniform(-0.6, 0.6)) for k in range(6)]
        loss = draw.uniform(1.5, 4.5)
        lowest = [min(value for _, value in curve[: k + 1]) for k in range(len(curve))]
        walked = None
        for tick in range(1, 250 * 8 + 1):
            row = min(tick // 400, len(curve) - 2)
            share = (tick / 8 - 50 * row) / 50
            if lowest[0] > loss and lowest[row] + share * (lowest[row + 1] - lowest[row]) <= loss:
                walked = tick / 8
                break
        found = steps_to_reach(loss, curve)
        assert (found is None) == (walked is None)
        assert found is None or walked == pytest.approx(found, abs=1 / 8 + 1e-9)


def test_steps_to_reach_by_hand():
    curve = [(0, 5.0), (50, 3.0), (100, 3.5), (150, 2.0)]
    assert steps_to_reach(4.0, curve) == 25
    assert steps_to_reach(3.0, curve) == 50
    assert steps_to_reach(2.5, curve) == 125, "from the running minimum at 100"
    assert steps_to_reach(1.9, curve) is None, "it never came so low"
    assert steps_to_reach(5.1, curve) is None, "before the first evaluation"
    assert steps_to_reach(5.0, curve) == 0
    assert steps_to_reach(2.5, [(0, math.nan), (50, 3.0), (100, math.nan), (150, 2.0)]) == 100
    assert steps_to_reach(2.5, [(50, math.inf), (100, 2.0)]) == 100
    assert steps_to_reach(math.nan, curve) is None
    assert steps_to_reach(2.5, []) is None


def test_grades_that_an_interval_reaches_into():
    assert grades_between(0.1, 0.49) == ("failed",)
    assert grades_between(0.1, 0.5) == ("failed", "degraded")
    assert grades_between(0.5, 0.89) == ("degraded",)
    assert grades_between(0.49, 0.9) == ("failed", "degraded", "trained")
    assert grades_between(-math.inf, math.inf) == ("failed", "degraded", "trained")
