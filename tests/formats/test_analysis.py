"""Half gaps and predicted stall against brute force: sampled weights, gfloat's grid, codes compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, named_formats, parse_format
from altgrad_cli.formats.analysis import half_gaps, predicted_stall
from altgrad_cli.formats.scale import stored_scale
from altgrad_cli.metrics.stall import first_step_stall_rate, predicted_stall_rate
from altgrad_cli.rounding.grid import stored_grid
from altgrad_cli.rounding.quantize import round_to_grid
from tests.formats.oracles import gfloat_rounded

EIGHT_BITS = [format for format in named_formats() if format.width == 8]
LEARNING_RATE, STD = 6e-4, 0.02


def _observed_stall(format: FP8Format, scale: float, updates: np.ndarray, weights: np.ndarray) -> float:
    stored = gfloat_rounded(format, (weights / scale).astype(np.float32))
    after = gfloat_rounded(format, (stored + updates / scale).astype(np.float32))
    return float((stored == after).mean())


@pytest.mark.parametrize("format", EIGHT_BITS, ids=lambda format: format.name)
def test_predicted_stall_is_what_a_simulated_update_does(format: FP8Format) -> None:
    generator = np.random.default_rng(0)
    count = 200_000
    weights = generator.normal(0, STD, count)
    spread = LEARNING_RATE * math.sqrt(0.1 / 1.9)
    prediction = predicted_stall(format, LEARNING_RATE, STD)
    tolerance = 4 / math.sqrt(count)
    long_run = _observed_stall(format, prediction.scale, generator.normal(0, spread, count), weights)
    assert prediction.long_run == pytest.approx(long_run, abs=tolerance)
    first = _observed_stall(
        format, prediction.scale, LEARNING_RATE * generator.choice([-1.0, 1.0], count), weights
    )
    assert prediction.first_step == pytest.approx(first, abs=tolerance)


def test_the_stall_table_of_the_study() -> None:
    # |dw| = lr, amax scaling without headroom, 147,000 weights; E7M0 at scale 1.
    table = {"E0M7": 0.0, "E1M6": 0.0, "E3M4": 0.235, "E4M3": 0.51, "E5M2": 0.737}
    for name, share in table.items():
        format = FORMAT_REGISTRY[name]
        scale = 4.5 * STD / format.max_representable_value
        stall = predicted_stall(format, LEARNING_RATE, STD, scale=scale)
        assert stall.first_step == pytest.approx(share, abs=0.02)
    assert predicted_stall(FORMAT_REGISTRY["E7M0"], LEARNING_RATE, STD).first_step == pytest.approx(
        0.912, abs=0.01
    )


@pytest.mark.parametrize(
    "name, weight, up, down",
    [
        ("E7M0", 1.0, 0.5, 0.25),  # up w/2, down w/4
        ("E7M0", 0.02, 2.0**-7, 2.0**-8),  # stored as 2^-6
        ("E3M4", 1.0, 1 / 32, 1 / 32),  # the subnormals below go on with the same gap
        ("E3M4", 0.02, 1 / 32, 1 / 32),  # stored as 0
        ("E5M2", 1.0, 0.125, 0.0625),
        ("E0M7", 1.0, math.inf, 1 / 256),  # saturated: only down
        ("E0M7", -0.1, 1 / 256, 1 / 256),
    ],
)
def test_half_gaps_by_hand(name: str, weight: float, up: float, down: float) -> None:
    gaps = half_gaps(FORMAT_REGISTRY[name], weight)
    assert (gaps.up, gaps.down) == (up, down)
    assert math.copysign(1, gaps.stored) == math.copysign(1, weight)


@pytest.mark.parametrize("format", EIGHT_BITS, ids=lambda format: format.name)
@pytest.mark.parametrize("weight", [1.0, 0.1, 0.02])
def test_an_update_moves_a_weight_exactly_from_its_half_gap_on(format: FP8Format, weight: float) -> None:
    scale = stored_scale(format, 1.0)
    gaps = half_gaps(format, weight, scale)
    for step, direction in ((gaps.up, 1), (gaps.down, -1)):
        if math.isinf(step):
            continue
        ends = np.array([gaps.stored + direction * step * (1 + nudge) for nudge in (-1e-3, 1e-3)]) / scale
        stays, moves = gfloat_rounded(format, ends.astype(np.float32)) * scale
        assert stays == gaps.stored != moves


def test_stored_scale_is_the_smallest_power_of_two_with_headroom() -> None:
    for format in EIGHT_BITS:
        if format.name == "E7M0":
            assert stored_scale(format, 0.09) == 1.0
            continue
        for amax in (0.09, 1.0, 1 / 1.25 * format.max_representable_value):
            scale = stored_scale(format, amax)
            assert math.frexp(scale)[0] == 0.5
            assert scale / 2 < 1.25 * amax / format.max_representable_value <= scale


def test_an_update_of_nothing_moves_nothing_and_a_huge_one_everything_inside() -> None:
    e3m4 = parse_format("E3M4")
    assert predicted_stall(e3m4, 0.0, STD).long_run == 1.0
    assert predicted_stall(e3m4, 0.0, STD).first_step == 1.0
    huge = predicted_stall(e3m4, 100.0, STD)
    assert huge.first_step < 1e-6  # only what is stored as the maximum cannot go up


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
def test_the_scale_assumed_here_is_the_one_that_training_gives(format: FP8Format) -> None:
    for amax in (1e-6, 0.0123, 0.09, 1.0, 700.0):
        weights = torch.tensor([amax, 0.0], dtype=torch.float64)
        assert stored_scale(format, amax) == stored_grid(format).stored_scales(weights)


@pytest.mark.parametrize("format", EIGHT_BITS, ids=lambda format: format.name)
def test_the_prediction_for_a_distribution_is_that_for_a_sample_of_it(format: FP8Format) -> None:
    torch.manual_seed(1)
    weights = STD * torch.randn(100_000)
    prediction = predicted_stall(format, LEARNING_RATE, STD)
    stored = round_to_grid(weights, format, prediction.scale)
    sampled = predicted_stall_rate(stored, format, prediction.scale, LEARNING_RATE)
    assert prediction.long_run == pytest.approx(float(sampled), abs=0.005)
    first = first_step_stall_rate(stored, format, prediction.scale, LEARNING_RATE)
    assert prediction.first_step == pytest.approx(float(first), abs=0.01)
