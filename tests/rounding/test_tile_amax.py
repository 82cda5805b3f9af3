"""The largest magnitude of each tile, natively and by torch's operations, against a plain loop."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from altgrad_cli.rounding.native import call
from altgrad_cli.rounding.native.call import tile_amax
from tests.rounding.inputs import wild
from tests.rounding.paths import need_kernel

SHAPES = [(1, 1), (7, 100), (130, 33), (3, 4096), (90, 170)]
TILES = [(1, 32), (1, 16), (1, 1), (1, 7), (5, 1), (4, 8), (128, 128)]


def one_by_one(matrix: Tensor, down: int, along: int) -> list[list[float]]:
    height, width = matrix.shape
    return [
        [
            float(matrix[row : row + down, column : column + along].float().abs().max())
            for column in range(0, width, along)
        ]
        for row in range(0, height, down)
    ]


@pytest.fixture(params=["native", "eager"], autouse=True)
def way(request: pytest.FixtureRequest) -> object:
    if request.param == "native":
        need_kernel()
    chosen = call.native_kernel if request.param == "native" else lambda: None
    with mock.patch.object(call, "native_kernel", chosen):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_tile_has_its_largest_magnitude(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = wild(5, shape).nan_to_num(0.0).clamp(-6e4, 6e4).to(dtype)
    for down, along in TILES:
        assert tile_amax(matrix, down, along).tolist() == one_by_one(matrix, down, along)


def test_an_empty_matrix_has_no_tiles() -> None:
    assert tile_amax(torch.empty(0, 40), 2, 32).shape == (0, 2)
    assert tile_amax(torch.empty(40, 0), 2, 32).shape == (20, 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_rows_of_tiles_or_else_columns(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape, tile in (((1000, 70), (1, 32)), ((2, 30001), (2, 16)), ((901, 77), (2000, 5))):
            matrix = torch.randn(shape, generator=torch.Generator().manual_seed(threads))
            assert tile_amax(matrix, *tile).tolist() == one_by_one(matrix, *tile)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("place", [0, 31, 37, 38, 39, 76])
def test_a_tile_with_inf_or_nan_says_so_and_its_neighbours_do_not(place: int) -> None:
    for value, dtype in ((math.inf, torch.float32), (-math.nan, torch.float32), (-math.inf, torch.bfloat16)):
        matrix = torch.ones(2, 39, dtype=dtype)
        matrix.view(-1)[place] = value
        found = tile_amax(matrix, 1, 32)
        touched = found[place // 39, place % 39 // 32].item()
        assert math.isnan(touched) if math.isnan(value) else touched == math.inf
        assert int((found == 1).sum()) == found.numel() - 1


def test_a_matrix_that_is_turned_is_read_as_it_is_meant() -> None:
    matrix = torch.randn(40, 70)
    assert tile_amax(matrix.T, 3, 16).tolist() == one_by_one(matrix.T, 3, 16)
