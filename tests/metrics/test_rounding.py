"""Rates from rounding counters, and code use from histograms, against loops over the values themselves."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY, parse_format
from altgrad_cli.metrics.rounding import (
    CODE_USE_COLUMNS,
    CODE_USE_METRICS,
    ROUNDING_MAXIMA,
    ROUNDING_METRICS,
    grid_histograms,
    measure_code_use,
)
from altgrad_cli.metrics.spec import evaluate
from altgrad_cli.rounding.quantize import STATS, code_histogram, round_to_grid
from altgrad_cli.training.measuring.reduce import pool


def counters(x, fmt, scale=1.0):
    stats = torch.empty(len(STATS), dtype=torch.float64)
    rounded = round_to_grid(x, fmt, scale, stats=stats)
    return stats.tolist(), rounded


@pytest.mark.parametrize("name", ["E0M7", "E3M4", "E5M2", "E7M0"])
def test_rates_agree_with_a_loop(name):
    fmt = FORMAT_REGISTRY[name]
    scale = 2.0**-6
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 2.0 ** torch.linspace(-12, 3, 3000)
    x[::50] = 0.0
    row, rounded = counters(x, fmt, scale)
    metrics = evaluate(ROUNDING_METRICS, dict(zip(STATS, row, strict=True)))
    values, results = x.tolist(), rounded.tolist()
    nonzero = [v for v in values if v != 0]
    lost = sum(v != 0 and q == 0 for v, q in zip(values, results, strict=True))
    assert metrics["underflow_rate"] == lost / len(nonzero)
    assert metrics["clipped_rate"] == sum(abs(v / scale) > fmt.max_representable_value for v in values) / 3000
    assert metrics["overflow_rate"] == sum(abs(v / scale) >= fmt.overflow_threshold for v in values) / 3000
    smallest = 0.0 if fmt.min_normal is None else fmt.min_normal * scale
    assert metrics["subnormal_fraction"] == sum(0 < abs(q) < smallest for q in results) / len(nonzero)
    errors = [q - v for v, q in zip(values, results, strict=True)]
    assert metrics["mean_rounding_error"] == pytest.approx(math.fsum(errors) / 3000, abs=1e-6)
    assert metrics["amax"] == max(map(abs, values))
    assert metrics["nonfinite_inputs"] == 0


def test_nonfinite_values_are_counted_and_leave_the_mean_error_alone():
    row, _ = counters(torch.tensor([1.0, math.nan, math.inf, 1.1]), FORMAT_REGISTRY["E5M2"])
    metrics = evaluate(ROUNDING_METRICS, dict(zip(STATS, row, strict=True)))
    assert metrics["nonfinite_inputs"] == 2
    assert metrics["mean_rounding_error"] == pytest.approx(-0.1 / 2)
    assert metrics["amax"] == pytest.approx(1.1)


def test_only_zeros_have_no_underflow_rate():
    row, _ = counters(torch.zeros(4), FORMAT_REGISTRY["E5M2"])
    metrics = evaluate(ROUNDING_METRICS, dict(zip(STATS, row, strict=True)))
    assert metrics["underflow_rate"] is None
    assert metrics["overflow_rate"] == 0.0


def test_pooled_counters_are_those_of_all_values():
    fmt = FORMAT_REGISTRY["E3M4"]
    parts = [torch.tensor([0.01, 1.0, 300.0]), torch.tensor([2.0, 0.0])]
    rows = [counters(part, fmt)[0] for part in parts]
    unmeasured = [math.nan] * len(STATS)
    pooled = pool(STATS, [rows[0], unmeasured, rows[1]], ROUNDING_MAXIMA)
    assert pooled == pytest.approx(dict(zip(STATS, counters(torch.cat(parts), fmt)[0], strict=True)))
    assert evaluate(ROUNDING_METRICS, pool(STATS, [unmeasured], ROUNDING_MAXIMA))["overflow_rate"] is None


def code_metrics(histogram, fmt):
    row = measure_code_use(histogram.unsqueeze(0), fmt)[0].tolist()
    return evaluate(CODE_USE_METRICS, dict(zip(CODE_USE_COLUMNS, row, strict=True)))


@pytest.mark.parametrize("name", ["E0M7", "E3M4", "E4M3", "E5M2", "E7M0"])
def test_code_use_agrees_with_a_loop(name):
    fmt = FORMAT_REGISTRY[name]
    x = torch.randn(2000, generator=torch.Generator().manual_seed(1)) * 3
    x[:20] = 0.0
    x[20] = math.nan
    histogram = code_histogram(x, fmt, 0.5)
    metrics = code_metrics(histogram, fmt)
    codes = [fmt.to_bits(value / 0.5) for value in x.tolist() if not math.isnan(value)]
    finite = [code for code in range(fmt.code_count) if math.isfinite(fmt.to_real(code))]
    shares = [codes.count(code) / len(codes) for code in set(codes)]
    top = 2.0 ** math.floor(math.log2(fmt.max_representable_value))
    assert metrics["codes_used"] == len(set(codes)) / len(finite)
    assert metrics["code_entropy"] == pytest.approx(
        -sum(p * math.log2(p) for p in shares) / math.log2(len(finite))
    )
    assert metrics["zero_share"] == sum(fmt.to_real(code) == 0 for code in codes) / 2000
    assert metrics["top_binade_share"] == sum(abs(fmt.to_real(code)) >= top for code in codes) / 2000
    assert metrics["nan_share"] == 1 / 2000


def test_an_even_histogram_has_entropy_1_and_a_single_code_0():
    fmt = FORMAT_REGISTRY["E3M4"]
    even = torch.ones(257)
    even[-1] = 0
    assert code_metrics(even, fmt)["code_entropy"] == pytest.approx(1.0)
    assert code_metrics(even, fmt)["codes_used"] == 1.0
    single = torch.zeros(257)
    single[5] = 9
    assert code_metrics(single, fmt)["code_entropy"] == 0.0


def test_empty_and_all_nan_histograms_do_not_crash():
    fmt = FORMAT_REGISTRY["E5M2"]
    assert set(code_metrics(torch.zeros(257), fmt).values()) == {None}
    broken = torch.zeros(257)
    broken[-1] = 3
    metrics = code_metrics(broken, fmt)
    assert metrics["nan_share"] == 1.0
    assert metrics["code_entropy"] is None
    assert metrics["codes_used"] == 0.0


@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 4.0, 0.3, 2.0**-100])
@pytest.mark.parametrize(
    "name", ["E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E4M3:fnuz", "E5M2", "E6M1", "E7M0"]
)
def test_the_fast_histogram_of_grid_values_agrees_with_the_exact_one(name, scale):
    fmt = parse_format(name)
    spread = 2.0 ** torch.linspace(-20, 3, 4000)
    x = torch.randn(4000, generator=torch.Generator().manual_seed(2)) * spread * fmt.max_representable_value
    tensors, scales = [], [scale, scale * 4, scale]
    for part, own in zip(torch.split(x, (2500, 500, 1000)), scales, strict=True):
        every_value = torch.tensor([v for v in fmt.values() if math.isfinite(v)]) * own
        specials = torch.tensor([0.0, -0.0, math.nan])
        tensors.append(torch.cat([round_to_grid(part * own, fmt, own), every_value, specials]))
    pairs = zip(tensors, scales, strict=True)
    expected = torch.stack([code_histogram(values, fmt, own) for values, own in pairs])
    assert expected[:, -1].tolist() == [1, 1, 1]
    assert torch.equal(grid_histograms(tensors, fmt, scales), expected)
