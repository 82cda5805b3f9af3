"""The paired interval against the textbook: mean +- t * deviation / sqrt(n), and the density of t."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altgrad_cli.metrics.noise import T_95, Interval, paired_interval


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
