"""Rounding in blocks: every shape and scale format against the exact reference, and the plain grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from altgrad_cli.formats import parse_format
from altgrad_cli.formats.block_spec import BlockSpec
from altgrad_cli.formats.reference import round_blocks_exact
from altgrad_cli.rounding.codes import code_histogram, code_index, dequantize, encode
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.rounding.grid import Tiles, block_shape, operand_grid, stored_grid
from altgrad_cli.rounding.quantize import STATS, quantize
from altgrad_cli.rounding.scaling import scales_of_amax
from tests.rounding.inputs import same_bits, wild

NAMES = (
    *("MXFP8_E4M3", "MXFP8_E5M2:ceil", "MXFP6_E2M3:even", "MXFP6_E3M2:rceil", "MXFP4", "MXINT8:even"),
    *("NVFP4", "E3M4@8x3:e4m3", "E4M3@row:float32", "E4M3@col:bf16", "E3M4@4x8:float32", "E2M5@32x1:e8m0"),
    *("E7M0@16:e8m0:even", "E0M7@5:e8m0:even", "E4M3@tensor:e8m0:ceil", "E4M3@tensor:bf16"),
)


@pytest.mark.parametrize("shape", [(9, 39), (3, 4, 32), (40,)])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_scales_are_those_of_the_exact_reference(name: str, shape: tuple[int, ...]) -> None:
    format, x = parse_format(name), wild(1, shape)
    values, scales = round_blocks_exact(x.reshape(-1, shape[-1]).tolist(), format)
    grid = operand_grid(format, "amax")
    found = grid.scales(x)
    assert torch.equal(
        grid.spread(found, shape).expand(shape).reshape(-1, shape[-1]),
        torch.tensor(scales, dtype=torch.float64),
    )
    expected = torch.tensor(values).view(shape)
    assert same_bits(grid.round(x, found), expected)
    assert same_bits(quantize(x, format), expected)


@pytest.mark.parametrize("name", ["E3M4@7", "E2M1@3x4", "MXFP4", "E4M3@col"])
def test_turned_blocks_are_those_of_the_transposed_matrix(name: str) -> None:
    grid, x = operand_grid(parse_format(name), "amax"), wild(2, (24, 33))
    turned = grid.turned
    assert same_bits(turned.round(x, turned.scales(x)), grid.round(x.T, grid.scales(x.T)).T)
    assert turned.turned == grid
    three = x.view(4, 6, 33)
    assert same_bits(
        turned.round(three, turned.scales(three)).view(24, 33), turned.round(x, turned.scales(x))
    )


@pytest.mark.parametrize("name", ["E4M3", "E4M3@4x4", "E4M3@tensor:e8m0"])
def test_blocks_that_are_alike_both_ways_are_not_turned(name: str) -> None:
    grid = operand_grid(parse_format(name), "amax")
    assert grid.turned is grid


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", ["E5M2", "E0M7", "E3M4"])
def test_one_block_of_the_whole_tensor_is_the_plain_grid(name: str, rounding: Rounding) -> None:
    """E8M0 scales rounded up are the power-of-two scales; tiles as large as the tensor are no tiles."""
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(3)) * 1e-3
    plain = operand_grid(parse_format(name), "amax")
    for block in ("tensor:e8m0:rceil", "64x48:e8m0:rceil", "64x48", "100x100"):
        grid, rows = (
            operand_grid(parse_format(f"{name}@{block}"), "amax"),
            torch.zeros(2, len(STATS)).double(),
        )
        results = [
            each.round(
                x, each.scales(x), rounding=rounding, generator=torch.Generator().manual_seed(4), stats=row
            )
            for each, row in zip((plain, grid), rows, strict=True)
        ]
        assert same_bits(*results)
        assert torch.equal(rows[0][:-2], rows[1][:-2])
        assert torch.allclose(rows[0], rows[1], rtol=1e-6, atol=1e-6)
    exact = operand_grid(parse_format(name), "amax", power_of_two=False)
    one = operand_grid(parse_format(f"{name}@tensor:float32"), "amax")
    assert same_bits(exact.round(x, exact.scales(x)), one.round(x, one.scales(x)))


def test_e8m0_scales_rounded_up_are_the_power_of_two_scales() -> None:
    amax = wild(5, (4000,)).abs().double().nan_to_num(1.0, 1.0).clamp_min(2.0**-100)
    for name in ("E2M1", "E3M4", "E4M3", "E5M2"):
        format = parse_format(f"{name}@row:e8m0:rceil")
        expected = scales_of_amax(amax, format.max_representable_value, power_of_two=True)
        grid = operand_grid(format, "amax", power_of_two=False)
        assert torch.equal(grid.scales_of(amax), expected)
        assert torch.equal(operand_grid(format, "amax", margin=4.0).scales_of(amax), expected * 4)


@pytest.mark.parametrize("name", ["MXFP4", "E3M4@4x8", "NVFP4", "E4M3@5"])
def test_counters_and_codes_are_those_of_the_blocks_one_by_one(name: str) -> None:
    format, x = parse_format(name), wild(6, (16, 40))
    grid = operand_grid(format, "amax")
    scales = grid.scales(x)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    grid.round(x, scales, stats=row)
    spread = grid.spread(scales, x.shape)
    parts, together = torch.zeros(len(STATS), dtype=torch.float64), torch.zeros(format.code_count + 1).long()
    plain = parse_format(name.split("@")[0]) if "@" in name else parse_format("E2M1")
    for scale in spread.unique().tolist():
        block = x[spread == scale]
        one = torch.zeros_like(parts)
        operand_grid(plain, "none").round(block, torch.tensor(scale).double(), stats=one)
        parts = torch.cat((torch.maximum(parts[:1], one[:1]), parts[1:] + one[1:]))
        together += code_histogram(block, plain, scale)
        assert torch.equal(code_index(x, format, spread)[spread == scale], code_index(block, plain, scale))
    assert torch.equal(row[:-2], parts[:-2])
    assert torch.allclose(row[-2:], parts[-2:], atol=1e-6 * float(parts[-1]))
    assert torch.equal(code_histogram(x, format, spread), together)
    finite = x.nan_to_num(0.0)
    again = dequantize(encode(finite, format, spread), format, spread)
    assert same_bits(again, grid.round(finite, scales))


def test_stochastic_rounding_draws_for_each_value_and_is_unbiased_in_its_block() -> None:
    grid = operand_grid(parse_format("MXFP4"), "amax")
    x = torch.tensor([[4.0, 1.25] + [0.1] * 30, [256.0, 125.0] + [10.0] * 30]).repeat(1, 2000)
    q = grid.round(x, grid.scales(x), rounding="stochastic", generator=torch.Generator().manual_seed(7))
    assert torch.allclose(q.mean(1), x.mean(1), rtol=0.02)
    assert set((q[0].unique() * 2).tolist()) <= {0, 1, 2, 3, 8}


def test_stored_blocks_have_power_of_two_scales_each_with_its_own_hysteresis() -> None:
    grid, alone = stored_grid(parse_format("MXFP8_E4M3")), stored_grid(parse_format("E4M3"))
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(8))
    scales = grid.stored_scales(w)
    assert scales.shape == (4, 2)
    w[1, 40] = 100.0
    moved = grid.stored_scales(w, scales)
    expected = [
        float(alone.stored_scales(w[i, 32 * j : 32 * j + 32], scales[i, j]))
        for i in range(4)
        for j in range(2)
    ]
    assert moved.flatten().tolist() == expected
    assert (moved != scales).nonzero().tolist() == [[1, 1]]


def test_empty_and_scalar_tensors_have_blocks_too() -> None:
    for shape in ((0, 32), (3, 0), (0,), (0, 2, 5)):
        assert quantize(torch.zeros(shape), "MXFP4").shape == shape
        assert quantize(torch.zeros(shape), "NVFP4").shape == shape
    assert quantize(torch.tensor(5.1), "MXFP4") == 6  # a tie at 5 is far: 4 and 6 are the neighbours
    assert math.isnan(quantize(torch.tensor(math.nan), "NVFP4"))


def test_a_tile_knows_its_scales_in_any_layout() -> None:
    assert isinstance(block_shape(BlockSpec(2, 3)), Tiles)
    x = torch.arange(24.0).view(4, 6)
    tiles = Tiles(2, 4)
    assert tiles.amax(x).tolist() == [[9, 11], [21, 23]]
    spread: Tensor = tiles.spread(tiles.amax(x), x.shape)
    assert spread[1].tolist() == [9, 9, 9, 9, 11, 11]
    assert same_bits(tiles.amax(x.T.contiguous().T), tiles.amax(x))
