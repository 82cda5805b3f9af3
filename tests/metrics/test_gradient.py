"""Gradient norms, sparsity and the float32 shadow against plain loops and torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.gradient import (
    GRADIENT_COLUMNS,
    GRADIENT_MAXIMA,
    GRADIENT_METRICS,
    SHADOW_COLUMNS,
    SHADOW_METRICS,
    measure_gradients,
    measure_shadow,
)
from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.spec import evaluate
from altgrad_cli.rounding.quantize import round_to_grid
from altgrad_cli.training.measuring.reduce import pool

SHAPES = [(6, 8), (4, 12), (3, 20)]


def some_gradients(seed=0, scale=1e-3):
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(shape, generator=generator) * scale for shape in SHAPES]
    layers[1][2] = 0.0
    layers[2][0, :5] = 3e-9
    return layers


def gradient_metrics(layers):
    layout = FlatLayout([layer.shape for layer in layers])
    table, maxima = measure_gradients(layout, layout.join(layers))
    rows = [dict(zip(GRADIENT_COLUMNS, row, strict=True)) for row in table.tolist()]
    return [evaluate(GRADIENT_METRICS, row) for row in rows], maxima, table


def test_norms_and_sparsity_agree_with_a_loop():
    layers = some_gradients()
    metrics, maxima, _ = gradient_metrics(layers)
    for layer, measured in zip(layers, metrics, strict=True):
        values = layer.flatten().tolist()
        assert measured["gradient_norm"] == pytest.approx(math.sqrt(sum(v * v for v in values)), rel=1e-5)
        assert measured["gradient_linf"] == max(abs(v) for v in values)
        assert measured["gradient_sparsity"] == sum(abs(v) < 1e-8 for v in values) / len(values)
        assert measured["nonfinite_gradients"] == 0
    assert maxima.tolist() == [max(abs(v) for v in row.tolist()) for layer in layers for row in layer]


def test_the_global_norm_is_pooled_from_the_layers():
    layers = some_gradients()
    _, _, table = gradient_metrics(layers)
    pooled = evaluate(GRADIENT_METRICS, pool(GRADIENT_COLUMNS, table.tolist(), GRADIENT_MAXIMA))
    everything = torch.cat([layer.flatten() for layer in layers])
    assert pooled["gradient_norm"] == pytest.approx(everything.norm().item(), rel=1e-5)
    assert pooled["gradient_linf"] == everything.abs().max().item()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_gradient_is_never_dropped(bad):
    layers = some_gradients()
    layers[0][1, 3] = bad
    metrics, maxima, _ = gradient_metrics(layers)
    assert not math.isfinite(metrics[0]["gradient_norm"])
    assert not math.isfinite(metrics[0]["gradient_linf"])
    assert not math.isfinite(maxima[1])
    assert metrics[0]["nonfinite_gradients"] == 1
    assert metrics[1]["nonfinite_gradients"] == 0


def shadow_metrics(gradients, references):
    layout = FlatLayout([layer.shape for layer in gradients])
    table = measure_shadow(layout, layout.join(gradients), layout.join(references)).tolist()
    rows = [dict(zip(SHADOW_COLUMNS, row, strict=True)) for row in table]
    return [evaluate(SHADOW_METRICS, row) for row in rows], table


def test_shadow_agrees_with_a_loop():
    references = some_gradients()
    gradients = [r + 0.1 * g for r, g in zip(references, some_gradients(seed=1), strict=True)]
    metrics, _ = shadow_metrics(gradients, references)
    for g, r, measured in zip(gradients, references, metrics, strict=True):
        pairs = list(zip(g.flatten().tolist(), r.flatten().tolist(), strict=True))
        gg, rr, gr = (
            sum(a * b for a, b in p) for p in ([(a, a) for a, _ in pairs], [(b, b) for _, b in pairs], pairs)
        )
        error = sum((a - b) ** 2 for a, b in pairs)
        agree = [(a > 0) == (b > 0) and a != 0 for a, b in pairs if b != 0]
        assert measured["gradient_cosine"] == pytest.approx(gr / math.sqrt(gg * rr), rel=1e-5)
        assert measured["gradient_sqnr"] == pytest.approx(10 * math.log10(rr / error), rel=1e-5)
        assert measured["gradient_norm_ratio"] == pytest.approx(math.sqrt(gg / rr), rel=1e-5)
        assert measured["gradient_sign_agreement"] == sum(agree) / len(agree)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_gradients_have_cosine_1_and_infinite_sqnr(dtype):
    layers = [layer.to(dtype) for layer in some_gradients(scale=3.7e-5)]
    metrics, table = shadow_metrics(layers, layers)
    pooled = evaluate(SHADOW_METRICS, pool(SHADOW_COLUMNS, table))
    for measured in [*metrics, pooled]:
        assert abs(measured["gradient_cosine"] - 1) <= 1e-12
        assert measured["gradient_sqnr"] == math.inf
        assert measured["gradient_norm_ratio"] == 1.0
        assert measured["gradient_sign_agreement"] == 1.0


def test_opposite_gradients():
    layers = some_gradients()
    metrics, _ = shadow_metrics([-layer for layer in layers], layers)
    assert metrics[0]["gradient_cosine"] == pytest.approx(-1)
    assert metrics[0]["gradient_sign_agreement"] == 0
    assert metrics[0]["gradient_sqnr"] == pytest.approx(10 * math.log10(1 / 4))


def test_a_vanished_gradient_has_no_cosine():
    layers = some_gradients()
    zeros = [torch.zeros_like(layer) for layer in layers]
    lost, _ = shadow_metrics(zeros, layers)
    assert lost[0]["gradient_cosine"] is None
    assert lost[0]["gradient_sqnr"] == 0.0  # all of the signal is error
    assert lost[0]["gradient_norm_ratio"] == 0.0
    nothing, _ = shadow_metrics(layers, zeros)
    assert nothing[0] == dict.fromkeys(nothing[0], None)


def test_nan_in_the_gradient_shows():
    layers = some_gradients()
    broken = [layer.clone() for layer in layers]
    broken[0][0, 0] = math.nan
    metrics, _ = shadow_metrics(broken, layers)
    assert all(
        math.isnan(metrics[0][name]) for name in ("gradient_cosine", "gradient_sqnr", "gradient_norm_ratio")
    )
    assert metrics[1]["gradient_cosine"] == pytest.approx(1)


def test_more_mantissa_bits_are_closer_to_the_shadow():
    reference = some_gradients(seed=3)
    cosines, ratios = [], []
    for mantissa_bits in range(1, 8):
        fmt = parse_format(f"E5M{mantissa_bits}")
        rounded = [round_to_grid(layer, fmt, 2.0**-12) for layer in reference]
        _, table = shadow_metrics(rounded, reference)
        pooled = evaluate(SHADOW_METRICS, pool(SHADOW_COLUMNS, table))
        cosines.append(pooled["gradient_cosine"])
        ratios.append(pooled["gradient_sqnr"])
    assert cosines == sorted(cosines)
    assert ratios == sorted(ratios)
    assert ratios[-1] - ratios[0] == pytest.approx(6 * 6.02, abs=3)  # one bit is 6 dB


def test_a_gradient_at_the_limit_of_sparsity_is_not_below_it():
    limit = torch.tensor(1e-8)
    at_and_below = torch.stack([limit, -limit, torch.nextafter(limit, torch.tensor(0.0)), torch.tensor(0.0)])
    metrics, _, _ = gradient_metrics([at_and_below.view(2, 2)])
    assert metrics[0]["gradient_sparsity"] == 0.5
