"""Closed forms of accuracy against brute numerical integration over gfloat's grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, named_formats, parse_format
from altgrad_cli.formats.accuracy import (
    binades,
    dynamic_range_log2,
    gaussian_accuracy,
    gaussian_noise,
    relative_error,
)
from tests.formats.oracles import gfloat_values


def _nearest(format: FP8Format, x: NDArray[np.float64]) -> NDArray[np.float64]:
    grid = gfloat_values(format)
    positive = np.unique(grid[np.isfinite(grid) & (grid >= 0)])
    nearest: NDArray[np.float64] = positive[np.searchsorted((positive[1:] + positive[:-1]) / 2, x)]
    return nearest


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
@pytest.mark.parametrize("clip", [1.5, 4.0, 30.0])
def test_gaussian_noise_is_the_integral_over_the_density(format: FP8Format, clip: float) -> None:
    scale = clip / format.max_representable_value
    x = (np.arange(400_000) + 0.5) * (9.0 / 400_000)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    brute = 2 * np.sum((x - scale * _nearest(format, x / scale)) ** 2 * density) * (9.0 / 400_000)
    assert gaussian_noise(format, scale) == pytest.approx(brute, rel=2e-3)


def test_known_signal_to_noise_ratios() -> None:
    # Uniform 8-bit quantiser of a normal input, 255 levels: the textbook optimum (Hui and Neuhoff 2001).
    e0m7 = gaussian_accuracy(FORMAT_REGISTRY["E0M7"])
    assert e0m7.sqnr_db == pytest.approx(40.55, abs=0.05)
    assert 3.8 < e0m7.scale * 127 / 128 < 4.1
    e1m6 = gaussian_accuracy(FORMAT_REGISTRY["E1M6"])
    assert e1m6.sqnr_db == pytest.approx(e0m7.sqnr_db, abs=1e-6)
    assert e1m6.scale == pytest.approx(e0m7.scale / 4, rel=1e-4)
    # Powers of two: 13.7 to 14.2 dB whatever the octave.
    assert 13.7 < gaussian_accuracy(FORMAT_REGISTRY["E7M0"]).sqnr_db < 14.3
    # 4 bits: the uniform optimum of 15 levels is 20.0 dB; E2M1 is near it.
    assert 17.5 < gaussian_accuracy(FORMAT_REGISTRY["E2M1"]).sqnr_db < 20.0


@pytest.mark.parametrize("name", ["E0M7", "E3M4", "E5M2", "E7M0", "E2M1"])
def test_no_other_scale_does_better(name: str) -> None:
    format = FORMAT_REGISTRY[name]
    best = gaussian_accuracy(format)
    least = 10 ** (-best.sqnr_db / 10)
    for factor in np.exp2(np.linspace(-3, 3, 41)):
        assert gaussian_noise(format, best.scale * float(factor)) >= least * (1 - 1.1e-3)


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
def test_relative_error_is_the_worst_and_the_mean_of_a_dense_sweep(format: FP8Format) -> None:
    error = relative_error(format)
    low, high = error.low, min(error.high, 2 * error.low)
    x = np.exp(np.linspace(math.log(low), math.log(high), 600_001))
    relative = np.abs(x - _nearest(format, x)) / x
    assert error.worst == pytest.approx(float(relative.max()), rel=1e-2)
    assert error.worst >= float(relative.max()) - 1e-12
    assert error.mean == pytest.approx(float(relative.mean()), rel=1e-2)


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
def test_binades_partition_the_positive_values(format: FP8Format) -> None:
    grid = gfloat_values(format)
    positive = np.unique(grid[np.isfinite(grid) & (grid > 0)])
    rows = binades(format)
    assert [row.value_count for row in rows] == [
        int(((positive >= 2.0**row.exponent) & (positive < 2.0 ** (row.exponent + 1))).sum()) for row in rows
    ]
    assert sum(row.value_count for row in rows) == len(positive)
    assert all(row.gap == format.gap(2.0**row.exponent) for row in rows)


def test_ranges_of_the_study() -> None:
    octaves = {name: dynamic_range_log2(FORMAT_REGISTRY[name]) for name in ("E0M7", "E3M4", "E5M2", "E7M0")}
    assert octaves["E0M7"] == pytest.approx(6.99, abs=0.005)
    assert octaves["E3M4"] == pytest.approx(10.95, abs=0.005)
    assert octaves["E5M2"] == pytest.approx(31.8, abs=0.01)
    assert octaves["E7M0"] == 126


def test_degenerate_grids_have_answers_too() -> None:
    for name in ("E0M1", "E1M0", "E1M1:fn"):
        format = parse_format(name)
        assert relative_error(format).worst >= 0
        assert math.isfinite(gaussian_accuracy(format).sqnr_db)
