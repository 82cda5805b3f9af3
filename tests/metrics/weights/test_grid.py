"""Stiffness, alignment and ULP movement against the format's own exact arithmetic, code by code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.metrics.weights.grid import (
    INTERVAL_METRICS,
    code_distance,
    compute_stiffness_field,
    compute_ulp_distance,
    correlate_with_field,
    gradient_stiffness_correlation,
    grid_alignment_error,
    grid_alignment_statistics,
    measure_stiffness,
    measure_ulp,
    stiffness,
    ulp_statistics,
)
from altgrad_cli.rounding.quantize import round_to_grid

STUDY_FORMATS = ("E0M7", "E1M6", "E3M4", "E5M2", "E7M0")


def probes(fmt, scale=1.0):
    """Every finite value of the format, its float32 neighbours, and the midpoints, all times the scale."""
    values = torch.tensor(sorted({v for v in fmt.values() if math.isfinite(v)}))
    middles = (values[1:].double() + values[:-1].double()).div(2).float()
    infinity = torch.tensor(torch.inf)
    beside = [torch.nextafter(values, infinity), torch.nextafter(values, -infinity)]
    return torch.cat([values, middles, *beside]) * scale


# --- the literal stiffness of the study -----------------------------------------------------------


def test_literal_stiffness_of_the_study():
    w = torch.tensor([1.0, 2.0, 4.0, -3.0, 0.75])
    assert compute_stiffness_field(w, 2).tolist() == [0.25, 0.5, 1.0, 0.5, 0.125]
    assert compute_stiffness_field(w, 0).tolist() == [1.0, 2.0, 4.0, 2.0, 0.5]


def test_literal_stiffness_is_constant_at_seven_mantissa_bits():
    assert compute_stiffness_field(torch.tensor([0.1, -5.0, 0.0]), 7).tolist() == [1 / 128] * 3


def test_literal_stiffness_of_zero_and_nonfinite_is_undefined():
    assert compute_stiffness_field(torch.tensor([0.0, math.nan, math.inf]), 2).isnan().all()


def test_stiffness_is_exact_just_below_every_power_of_two():
    # where floor(log2) in floating point is off by one
    powers = torch.tensor([2.0**k for k in range(-126, 128)])
    below = torch.nextafter(powers, torch.tensor(0.0))
    expected = [math.ldexp(1.0, math.frexp(value)[1] - 1 - 2) for value in below.tolist()]
    assert compute_stiffness_field(below, 2).tolist() == expected
    assert (torch.log2(below).floor().exp2() / 4).tolist() != expected  # the naive way fails here


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_literal_stiffness_keeps_shape_and_type(dtype):
    field = compute_stiffness_field(torch.full((2, 3), 1.5, dtype=dtype), 2)
    assert field.dtype == dtype
    assert field.tolist() == [[0.25] * 3] * 2


# --- the format-aware stiffness -------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 4.0])
@pytest.mark.parametrize("name", [*STUDY_FORMATS, "E4M3", "BF16"])
def test_stiffness_is_the_gap_of_the_format(name, scale):
    fmt = FORMAT_REGISTRY[name]
    x = probes(fmt, scale)
    x = x[(x / scale).abs() <= fmt.max_representable_value]
    expected = [scale * fmt.gap(value / scale) for value in x.tolist()]
    assert stiffness(x, fmt, scale).tolist() == expected


def test_stiffness_of_uniform_grids_is_constant():
    w = torch.tensor([0.0, 1e-6, 0.3, -2.0])
    assert stiffness(w, FORMAT_REGISTRY["E0M7"], 0.5).tolist() == [0.5 / 128] * 4
    assert stiffness(w, FORMAT_REGISTRY["E1M6"], 0.5).tolist() == [0.5 / 32] * 4


def test_bf16_is_not_taken_for_fixed_point():
    assert stiffness(torch.tensor([1.0, 4.0]), FORMAT_REGISTRY["BF16"]).tolist() == [2**-7, 2**-5]


@pytest.mark.parametrize("name", ["E0M7", "E5M2"])
def test_stiffness_keeps_nan_and_inf(name):
    field = stiffness(torch.tensor([math.nan, math.inf, -math.inf]), FORMAT_REGISTRY[name])
    assert math.isnan(field[0])
    assert field[1:].tolist() == [math.inf, math.inf]


# --- alignment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDY_FORMATS)
def test_alignment_error_against_the_exact_rounding(name):
    fmt = FORMAT_REGISTRY[name]
    x = probes(fmt)
    expected = [abs(value - fmt.to_real(fmt.to_bits(value))) for value in x.tolist()]
    assert grid_alignment_error(x, fmt).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", STUDY_FORMATS)
def test_error_is_at_most_half_an_ulp_away_from_saturation(name):
    fmt = FORMAT_REGISTRY[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, generator=generator)
    x = x[x.abs() <= fmt.max_representable_value] * 0.25
    statistics = grid_alignment_statistics(x, fmt, 0.25)
    assert 0 < statistics["grid_error_ulp_max"] <= 0.5
    on_grid = grid_alignment_statistics(round_to_grid(x, fmt, 0.25), fmt, 0.25)
    assert on_grid["on_grid_frac"] == 1.0
    assert on_grid["grid_error_max"] == 0.0


def test_alignment_statistics_by_hand():
    # E0M7 with s = 128: the whole numbers
    statistics = grid_alignment_statistics(
        torch.tensor([1.0, 2.25, 3.0, 4.75]), FORMAT_REGISTRY["E0M7"], 128.0
    )
    assert statistics == {
        "grid_error_mean": 0.125,
        "grid_error_max": 0.25,
        "grid_error_std": 0.125,
        "on_grid_frac": 0.5,
        "grid_error_ulp_mean": 0.125,
        "grid_error_ulp_max": 0.25,
    }


def test_a_nan_weight_shows_in_the_alignment():
    statistics = grid_alignment_statistics(torch.tensor([1.0, math.nan]), FORMAT_REGISTRY["E5M2"])
    assert math.isnan(statistics["grid_error_mean"])
    assert math.isnan(statistics["grid_error_max"])
    assert statistics["on_grid_frac"] == 0.5


# --- ULP movement ---------------------------------------------------------------------------------


def test_float32_ulp_distance_agrees_with_numpy():
    generator = torch.Generator().manual_seed(2)
    before = torch.randn(500, generator=generator)
    after = before + torch.randn(500, generator=generator) * 1e-6
    b, a = before.numpy(), after.numpy()
    expected = np.abs(a.astype(np.float64) - b.astype(np.float64)) / np.spacing(np.abs(b)).astype(np.float64)
    assert compute_ulp_distance(before, after).tolist() == expected.tolist()


def test_one_e5m2_step_is_two_million_float32_ulps():
    assert compute_ulp_distance(torch.tensor([1.0]), torch.tensor([1.25])).item() == 2_097_152


def test_ulp_statistics_by_hand():
    before = torch.ones(4)
    after = torch.tensor([1.0, 1.0, 1 + 2**-23, 1 + 3 * 2**-23])
    expected = {"ulp_mean": 1.0, "ulp_median": 0.0, "ulp_max": 3.0, "ulp_zero_frac": 0.5}
    assert ulp_statistics(before, after) == expected


@pytest.mark.parametrize("name", STUDY_FORMATS)
def test_code_distance_counts_the_values_walked_over(name):
    fmt = FORMAT_REGISTRY[name]
    values = sorted({v for v in fmt.values() if math.isfinite(v)})
    grid = torch.tensor(values) * 0.5
    steps = [0, 1, 5, len(values) - 1]
    for step in steps:
        moved = code_distance(grid[: len(values) - step], grid[step:], fmt, 0.5)
        assert moved.tolist() == [step] * (len(values) - step)


def test_code_distance_keeps_nan():
    moved = code_distance(
        torch.tensor([1.0, math.nan]), torch.tensor([math.nan, 1.0]), FORMAT_REGISTRY["E5M2"]
    )
    assert moved.isnan().all()


# --- gradient against stiffness -------------------------------------------------------------------


def test_correlation_agrees_with_numpy():
    generator = torch.Generator().manual_seed(3)
    w, g = torch.randn(300, generator=generator), torch.randn(300, generator=generator)
    field = compute_stiffness_field(w, 4)
    result = gradient_stiffness_correlation(w, g, 4)
    expected = np.corrcoef(g.abs().double().numpy(), field.double().numpy())[0, 1]
    assert result["grad_stiff_correlation"] == pytest.approx(expected)
    pairs = list(zip(g.abs().tolist(), field.tolist(), strict=True))
    assert result["grad_below_stiffness_frac"] == sum(a < s for a, s in pairs) / 300
    assert result["grad_stiff_ratio_mean"] == pytest.approx(sum(a / s for a, s in pairs) / 300)


def test_correlation_is_1_for_gradients_that_follow_the_grid():
    w = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert gradient_stiffness_correlation(w, 3 * w, 2)["grad_stiff_correlation"] == pytest.approx(1)


def test_correlation_leaves_out_zero_weights():
    w, g = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([9.0, 0.1, 0.3])
    assert gradient_stiffness_correlation(w, g, 2) == gradient_stiffness_correlation(w[1:], g[1:], 2)


def test_correlation_without_variance_is_undefined():
    assert gradient_stiffness_correlation(torch.ones(4), torch.rand(4), 7)["grad_stiff_correlation"] is None
    assert gradient_stiffness_correlation(torch.zeros(4), torch.rand(4), 2) == {
        "grad_stiff_correlation": None,
        "grad_stiff_ratio_mean": None,
        "grad_below_stiffness_frac": None,
    }


def test_a_nan_gradient_shows_in_the_correlation():
    result = correlate_with_field(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 2.0]))
    assert math.isnan(result["correlation"])
    assert math.isnan(result["ratio_mean"])


# --- what is taken at the interval ----------------------------------------------------------------


def test_update_below_half_gap_is_the_stall():
    """Exactly what nearest rounding does, directions, saturation and all; ties apart."""
    generator = torch.Generator().manual_seed(4)
    for name in STUDY_FORMATS:
        fmt = FORMAT_REGISTRY[name]
        w = round_to_grid(torch.randn(3000, generator=generator), fmt, 0.5)
        dw = torch.randn(3000, generator=generator) * 0.1
        stalled = round_to_grid(w + dw, fmt, 0.5) == w
        values = measure_stiffness(w, -dw, dw, fmt, 0.5)
        assert values["update_below_half_gap"] == pytest.approx(stalled.double().mean().item(), abs=1e-3)
        assert values["gradient_below_half_gap"] == values["update_below_half_gap"]


def test_sign_flips_count_only_from_sign_to_sign():
    before = torch.tensor([1.0, -1.0, 0.0, 1.0, 1.0])
    after = torch.tensor([-1.0, 1.0, 1.0, 0.0, 2.0])
    assert measure_ulp(before, after, FORMAT_REGISTRY["E5M2"], 1.0)["sign_flip_rate"] == 2 / 5


def test_every_interval_value_has_a_spec():
    w = torch.tensor([1.0, 2.0, -3.0, 0.5])
    fmt = FORMAT_REGISTRY["E5M2"]
    names = [
        *measure_stiffness(w, w, w, fmt, 1.0),
        *grid_alignment_statistics(w, fmt, 1.0),
        *measure_ulp(w, w, fmt, 1.0),
    ]
    assert sorted(names) == sorted(spec.name for spec in INTERVAL_METRICS)
