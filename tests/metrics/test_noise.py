"""The paired interval against the textbook: mean +- t * deviation / sqrt(n), and the density of t."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altgrad_cli.metrics.noise import (
    T_95,
    Interval,
    chance_above,
    nested_interval,
    paired_interval,
    student_cdf,
)


def test_three_seeds_of_one_sign_may_still_be_noise() -> None:
    found = paired_interval([0.01, 0.05, 0.20])
    assert found is not None and found.half_width is not None
    assert found.mean == pytest.approx(0.0866667, abs=1e-6)
    assert found.half_width == pytest.approx(4.30 * np.std([0.01, 0.05, 0.20], ddof=1) / math.sqrt(3))
    assert found.half_width == pytest.approx(0.249, abs=5e-4)
    assert found.within_noise is True
    assert found.words == "inside the noise"


def test_the_points_are_student_s() -> None:
    """P(|T| <= t) by numeric integration of the density is 0.95."""
    for freedom, point in T_95.items():
        grid = np.linspace(-point, point, 200_001)
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        density = scale * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
        assert np.trapezoid(density, grid) == pytest.approx(0.95, abs=5e-4)


def test_what_has_no_interval_says_so() -> None:
    assert paired_interval([]) is None
    assert paired_interval([0.3]) == Interval(0.3, None)
    assert paired_interval([0.3]).words == "the noise is not known"  # type: ignore[union-attr]
    broken = paired_interval([0.1, math.nan])
    assert broken is not None and math.isnan(broken.mean) and broken.within_noise is None


def test_student_s_distribution_is_the_integral_of_its_density() -> None:
    for freedom in (1, 2, 3, 4, 5, 8, 9):
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        for t in (-3.0, -0.4, 0.0, 1.7, 12.0):
            grid = np.linspace(0.0, t, 100_001)
            density = scale * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
            assert student_cdf(t, freedom) == pytest.approx(0.5 + np.trapezoid(density, grid), abs=1e-7)


def test_the_chance_above_zero_by_hand() -> None:
    """t = mean / (deviation / sqrt 3), and for two degrees of freedom F(t) = 1/2 + t / (2 sqrt(2 + t^2))."""
    differences = [0.01, 0.05, 0.20]
    t = np.mean(differences) / (np.std(differences, ddof=1) / math.sqrt(3))
    assert chance_above(differences) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    assert chance_above([-each for each in differences]) == pytest.approx(
        0.5 - t / (2 * math.sqrt(2 + t * t))
    )
    assert (chance_above([0.0, 0.0]), chance_above([0.1, 0.1]), chance_above([-0.1, -0.1])) == (0.5, 1.0, 0.0)
    assert chance_above([0.1]) is None and chance_above([0.1, math.nan]) is None


def test_texts_are_a_level_of_their_own() -> None:
    """Three texts of three seeds are three values and not nine."""
    texts = [[0.30, 0.31, 0.32], [0.10, 0.11, 0.12], [0.20, 0.21, 0.22]]
    means = [0.31, 0.11, 0.21]
    found = nested_interval(texts)
    assert found is not None and found.half_width is not None
    assert found.mean == pytest.approx(0.21)
    assert found.half_width == pytest.approx(4.30 * np.std(means, ddof=1) / math.sqrt(3))
    pooled = paired_interval([each for text in texts for each in text])
    assert pooled is not None and pooled.half_width is not None and pooled.half_width < found.half_width / 3
    assert nested_interval(texts[:1]) == paired_interval(texts[0])
    assert nested_interval([[], texts[1]]) == paired_interval(texts[1])
    assert nested_interval([]) is None and nested_interval([[]]) is None
