"""What is measured without training, against plain loops over floats and closed forms; and each can fail."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from altgrad_cli.claims import block_scales, formats_compared, rounded_gradients, stored_weights
from altgrad_cli.claims.bench import Bench
from altgrad_cli.claims.block_scales import clamped_share
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.formats_compared import failed_share, relative_shrinkage
from altgrad_cli.claims.judgement import judge
from altgrad_cli.claims.rounded_gradients import log_bias, signal_to_noise
from altgrad_cli.claims.stored_weights import repeated_sum
from tests.claims.planted import PlantedBench


def verdict(name: str, bench: Bench | None = None) -> str:
    claim = CLAIMS[name]
    return judge(claim.conditions, claim.measure(bench or Bench())).verdict


def test_the_nearest_sum_is_that_of_ml_dtypes() -> None:
    total = np.float32(1)
    for _ in range(1000):
        total = (total + np.float32(0.001)).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert float(repeated_sum("BF16", "nearest")) == float(total) == 1.0


def test_a_stochastic_sum_lies_on_the_grid_and_its_mean_is_exact() -> None:
    sums = repeated_sum("BF16", "stochastic", 4000, seed=5)
    assert torch.equal(sums, sums.bfloat16().float())
    # 1,000 steps of variance p (1 - p) gap^2 with p = .128 of a gap of 2^-7: a deviation of .083
    deviation = math.sqrt(1000 * 0.128 * (1 - 0.128)) * 2**-7
    assert float(sums.std()) == pytest.approx(deviation, rel=0.1)
    assert float(sums.mean()) == pytest.approx(2, abs=5 * deviation / math.sqrt(4000))


def test_shrinkage_is_that_of_a_plain_loop() -> None:
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(3)).numpy()
    two = one = 0.0
    for block in x:
        largest = np.abs(block).max()
        scale = np.float32(largest / np.float32(6))
        two += float(np.abs(scale * (block / scale).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)).sum())
        step = largest / np.float32(7)
        one += sum(abs(float(step) * round(float(value / step))) for value in block)
    whole = float(np.abs(x).astype(np.float64).sum())
    assert relative_shrinkage("E2M1", 3, 1024) == pytest.approx(two / whole - 1, abs=1e-6)
    assert relative_shrinkage("E1M2", 3, 1024) == pytest.approx(one / whole - 1, abs=1e-6)


def test_the_bias_on_powers_of_two_is_that_of_the_closed_form() -> None:
    # of x in [1, 2), log-uniform, log2 1.5 rounds to 1 and the rest to 2; the mean of x is 1 / ln 2
    expected = (2 - math.log2(1.5)) * math.log(2) - 1
    assert log_bias("nearest", seed=1) == pytest.approx(expected, abs=2e-3)
    assert log_bias("stochastic", seed=1) == pytest.approx(0, abs=2e-3)


def test_clamped_gains_are_those_of_a_plain_loop() -> None:
    """Against OCP's own words: a block's scale is 2^(floor(log2 of its largest) - 8)."""
    for seed, spread in enumerate((0.02, 0.1, 0.5)):
        gains = np.exp(np.random.default_rng(seed).normal(-0.05, spread, 200)).astype(np.float32)
        top = 0
        for block in np.split(gains, range(32, 200, 32)):
            scaled = block / np.float32(2.0 ** (math.floor(math.log2(block.max())) - 8))
            codes = np.minimum(scaled, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            top += int((codes == 448).sum())
        assert clamped_share(torch.from_numpy(gains)) == top / 200
    assert clamped_share(torch.full((64,), 0.93)) == 1
    assert clamped_share(torch.full((64,), 1.02)) == 0


def test_a_run_that_is_not_finite_has_failed() -> None:
    assert failed_share([2.0, 2.1, math.inf, math.nan], [2.0, 2.0, 2.0, 2.0]) == 0.75


def test_decibels_as_a_ratio() -> None:
    assert signal_to_noise(20 * math.log10(math.sqrt(3))) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if not claim.trains])
def test_arithmetic_agrees(name: str) -> None:
    assert verdict(name) == "agrees"


def _to_nearest(function: Any) -> Any:
    return lambda *values, rounding="nearest", **options: function(*values, **options)


def test_stochastic_rounding_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_weights, "round_to_grid", _to_nearest(stored_weights.round_to_grid))
    monkeypatch.setattr(rounded_gradients, "quantize", _to_nearest(rounded_gradients.quantize))
    assert verdict("accumulate") == "disagrees"
    assert verdict("log-bias") == "disagrees"


def test_rounding_that_does_not_shrink_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats_compared, "quantize", lambda x, format: 1.01 * x)
    assert verdict("shrinkage") == "disagrees"


def test_a_scale_that_clamps_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("clamped-gains", PlantedBench()) == "agrees"
    monkeypatch.setattr(block_scales, "CLAMPING", "MXFP8_E4M3:ceil")
    assert verdict("clamped-gains", PlantedBench()) == "disagrees"
