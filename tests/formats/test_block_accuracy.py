"""What blocks buy, against the formats' own definitions and numpy."""

from __future__ import annotations

import math
import random

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from altgrad_cli.formats import parse_format
from altgrad_cli.formats.block_accuracy import COLUMNS, INPUTS, ROWS, block_facts


@pytest.mark.parametrize(
    "name, bits, inside, across",
    [
        ("MXFP8_E4M3", 8.25, math.log2(448) + 9, 254),
        ("MXFP4", 4.25, math.log2(6) + 1, 254),
        ("NVFP4", 4.5, math.log2(6) + 1, math.log2(448) + 6),
        ("E4M3@128x128:float32", 8 + 32 / 128**2, math.log2(448) + 9, 254),
        ("E5M2@row:bf16", 8, math.log2(57344) + 16, 254),
    ],
)
def test_bits_and_range_follow_from_the_definitions(
    name: str, bits: float, inside: float, across: float
) -> None:
    found = block_facts(parse_format(name))
    assert found is not None
    assert (found.bits_a_value, found.octaves_inside) == (bits, inside)
    assert found.octaves_across == pytest.approx(inside + across, abs=0.01)


def test_without_blocks_there_is_nothing_to_say_and_without_a_scale_format_less() -> None:
    assert block_facts(parse_format("E4M3")) is None
    found = block_facts(parse_format("E4M3@32"))
    assert found is not None
    assert (found.bits_a_value, found.octaves_across) == (8, None)


def sqnr(x: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    q = (x / scale).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn).astype(float) * scale
    return float(10 * np.log10(np.square(x).sum() / np.square(x - q).sum()))


@pytest.mark.parametrize("kind", INPUTS)
def test_the_sqnr_is_that_of_numpy_and_ml_dtypes(kind: str) -> None:
    draw = random.Random(0)
    x = np.array([INPUTS[kind](draw) for _ in range(ROWS * COLUMNS)])
    amax = np.abs(x.reshape(-1, 32)).max(1, keepdims=True)
    found = block_facts(parse_format("MXFP8_E4M3"))
    assert found is not None
    measured = next(each for each in found.accuracy if each.input == kind)
    assert measured.blocks == pytest.approx(sqnr(x.reshape(-1, 32), 2.0 ** (np.floor(np.log2(amax)) - 8)))
    assert measured.one_scale == pytest.approx(sqnr(x, 2.0 ** np.ceil(np.log2(np.abs(x).max() / 448))))


def test_blocks_help_a_short_format_where_there_are_outliers() -> None:
    found = block_facts(parse_format("NVFP4"))
    assert found is not None
    assert all(each.blocks > each.one_scale + 3 for each in found.accuracy)
