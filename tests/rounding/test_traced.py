"""The rounding as a graph sees it, run without a compiler: the eager form's bits, and its counts."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding.constants import Carrier, Overflow
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from altgrad_cli.rounding.stochastic import draw_key
from altgrad_cli.rounding.traced import finish_rows, round_and_count, traced_plan
from tests.formats.oracles import probe_inputs

NAMES = ["E5M2", "E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E4M3:fnuz", "E6M1", "E7M0", "BF16", "FP16"]


def operand(format: FP8Format, scale: float) -> torch.Tensor:
    """(lines, 96): the probes of the format in units of ``scale``, then normal values, nan and inf."""
    probes = torch.from_numpy(probe_inputs(format)).flatten()
    generator = torch.Generator().manual_seed(3)
    size = 96 * (probes.numel() // 96 + 20)
    x = torch.randn(size, generator=generator) * min(format.max_representable_value, 1e30) / 2
    x[: probes.numel()] = probes
    x *= scale
    x[-4:] = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    return x.view(-1, 96)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 2.0**30, 2.0**-74, 2.0**-97, 2.0**77, 0.3, 1.7e-20])
@pytest.mark.parametrize("name", NAMES)
def test_the_bits_and_the_counts_are_the_eager_ones(name: str, scale: float, stochastic: bool) -> None:
    format = parse_format(name)
    too_large = scale * format.max_representable_value > torch.finfo(torch.float32).max
    if too_large or (format.is_uniform and scale < 2.0**-80):
        pytest.skip("passes with such scales are eager")
    overflows: list[Overflow] = ["saturate"] + (["ieee"] if format.has_specials else [])
    for overflow in overflows:
        plan = traced_plan(format, overflow)
        if plan.carrier is Carrier.FLOAT64:
            continue  # passes with such formats are eager
        x = operand(format, scale)
        expected_row = torch.zeros(len(STATS), dtype=torch.float64)
        expected = round_to_grid(
            x,
            format,
            scale,
            rounding="stochastic" if stochastic else "nearest",
            overflow=overflow,
            generator=torch.Generator().manual_seed(5),
            stats=expected_row,
        )
        generator = torch.Generator().manual_seed(5)
        key = torch.tensor(draw_key(generator), dtype=torch.int32) if stochastic else None
        power_of_two = math.frexp(scale)[0] == 0.5
        pair = torch.tensor([1 / scale if power_of_two else scale, scale])
        value, (amax, sums) = round_and_count(
            x, pair, plan, key, torch.ones(len(x)), power_of_two=power_of_two
        )
        assert same_bits(value, expected)
        size = torch.tensor([x.numel()], dtype=torch.float64)
        row = finish_rows(amax.reshape(1), sums.reshape(1, -1), size)[0]
        assert torch.equal(row[:-2], expected_row[:-2])
        assert torch.allclose(row[-2:], expected_row[-2:], rtol=1e-5, atol=1e-5 * float(row[-1]))
