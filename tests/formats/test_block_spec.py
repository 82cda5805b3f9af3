"""The exact reference of block formats against gfloat's, and its scales against plain words."""

from __future__ import annotations

import math
from fractions import Fraction

import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
from gfloat.block import compute_scale_amax, quantize_block
from numpy.typing import NDArray

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.block_spec import SCALE_FORMATS
from altgrad_cli.formats.equivalence import find_equivalents
from altgrad_cli.formats.reference import round_blocks_exact

GFLOAT = {
    "MXFP8_E4M3": gfloat.formats.format_info_mxfp8_e4m3,
    "MXFP8_E5M2": gfloat.formats.format_info_mxfp8_e5m2,
    "MXFP6_E2M3": gfloat.formats.format_info_mxfp6_e2m3,
    "MXFP6_E3M2": gfloat.formats.format_info_mxfp6_e3m2,
    "MXFP4": gfloat.formats.format_info_mxfp4_e2m1,
    "MXINT8": gfloat.formats.format_info_mxint8,
}


def blocks(seed: int, count: int, size: int) -> NDArray[np.float32]:
    """Rows of normal values at every magnitude of float32, a heavy tail in each third, the ends and zeros."""
    random = np.random.default_rng(seed)
    scale = np.exp2(random.uniform(-140, 125, (count, 1)))
    x = (random.standard_normal((count, size)) * scale).astype(np.float32)
    x[::3] *= np.exp2(-random.exponential(6, x[::3].shape)).astype(np.float32)
    x[0], x[1], x[2] = 0, 2.0**-149, np.finfo(np.float32).max
    x[3:6] = np.exp2(random.integers(-20, 20, (3, size))) * np.array([[1], [1 - 2.0**-24], [1 + 2.0**-23]])
    return x


@pytest.mark.parametrize("name", GFLOAT)
def test_mx_is_rounded_as_gfloat_does(name: str) -> None:
    x = blocks(1, 24, 32)
    found, _ = round_blocks_exact(x.tolist(), parse_format(name))
    expected = np.array([quantize_block(GFLOAT[name], row.astype(float), compute_scale_amax) for row in x])
    scale = np.array([compute_scale_amax(GFLOAT[name].etype.emax, row.astype(float)) for row in x])[:, None]
    if name == "MXINT8":  # two's complement has a -2, which OCP lets one leave out, and no -0
        expected = np.where(expected == -2 * scale, -1.984375 * scale, expected)
        found = (np.array(found) + 0.0).tolist()
    bits = [np.array(values, np.float32).view(np.int32) for values in (found, expected)]
    assert np.array_equal(*bits)


def scale_of(name: str, *values: float) -> float:
    return round_blocks_exact([values], parse_format(name))[1][0][0]


@pytest.mark.parametrize(
    "amax, floor, ceil, even, rceil",
    [  # E2M1: max 6 = 1.5 * 2^2, one mantissa bit
        (4.0, 1, 1, 1, 1),
        (4.0000005, 1, 2, 1, 1),
        (6.0, 1, 2, 1, 1),
        (6.0000005, 1, 2, 1, 2),
        (6.9999995, 1, 2, 1, 2),
        (7.0, 1, 2, 2, 2),
        (7.9999995, 1, 2, 2, 2),
        (8.0, 2, 2, 2, 2),
        (0.0, 2.0**-127, 2.0**-127, 2.0**-127, 2.0**-127),
        (2.0**-149, 2.0**-127, 2.0**-127, 2.0**-127, 2.0**-127),
    ],
)
def test_the_four_roundings_of_a_scale(
    amax: float, floor: float, ceil: float, even: float, rceil: float
) -> None:
    found = [scale_of(f"MXFP4:{way}", amax, 0.1 * amax) for way in ("floor", "ceil", "even", "rceil")]
    assert found == [floor, ceil, even, rceil]


def test_a_fixed_point_format_carries_where_its_own_grid_does() -> None:
    # The same grid times 4: 127 steps, six mantissa bits below the leading one.
    for amax in (1.984, 1.993):
        assert scale_of("E0M7@4:e8m0:even", amax) == 4 * scale_of("E1M6@4:e8m0:even", amax)


@pytest.mark.parametrize("name, dtype", [("bf16", ml_dtypes.bfloat16), ("e4m3", ml_dtypes.float8_e4m3fn)])
def test_scale_formats_round_as_ml_dtypes_does(name: str, dtype: type) -> None:
    values = np.exp2(np.random.default_rng(2).uniform(-5.9, 8.7, 500)).astype(np.float32)
    scales = [float(SCALE_FORMATS[name].nearest(Fraction(float(value)))) for value in values]
    assert scales == values.astype(dtype).astype(float).tolist()


def test_float32_scales_are_quotients_and_e8m0_has_the_values_of_its_codes() -> None:
    assert scale_of("E4M3@row:float32", 3.0, 1.0) == float(np.float32(3) / np.float32(448))
    codes = np.arange(255, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(float)
    e8m0 = SCALE_FORMATS["e8m0"]
    assert (e8m0.smallest, e8m0.largest) == (codes[0], codes[-1])
    assert all(scale_of("E2M1@2:e8m0", 4 * code) == code for code in codes if code < 2.0**125)


def test_the_two_levels_of_nvfp4() -> None:
    # amax 12 gives the tensor 12 / 2688; 12 / 6 over it is 448, 3 / 6 over it 112, and far below is 2^-6.
    _, scales = round_blocks_exact([[12.0] + [0.0] * 15 + [3.0] * 16 + [1e-9] * 7], parse_format("NVFP4"))
    tensor = np.float32(12) / np.float32(2688)
    expected = [float(np.float32(code) * tensor) for code in (448, 112, 2.0**-6)]
    assert [scales[0][0], scales[0][16], scales[0][32]] == expected
    assert round_blocks_exact([[0.0, -0.0]], parse_format("NVFP4"))[0] == [[0.0, -0.0]]


def test_tiles_lie_on_rows_and_are_cut_at_the_ends() -> None:
    rows = [[1.0, 2.0, 4.0, 64.0, 8.0], [1.0, 16.0, 1.0, 1.0, 1.0], [32.0, 1.0, 1.0, 1.0, 128.0]]
    scales = {
        name: round_blocks_exact(rows, parse_format(f"E0M7@{name}:e8m0"))[1]
        for name in ("2x2", "2", "row", "col")
    }
    assert scales["2x2"] == [[32, 32, 128, 128, 16], [32, 32, 128, 128, 16], [64, 64, 2, 2, 256]]
    assert scales["2"] == [[4, 4, 128, 128, 16], [32, 32, 2, 2, 2], [64, 64, 2, 2, 256]]
    assert scales["row"] == [[128] * 5, [32] * 5, [256] * 5]
    assert scales["col"] == [[64, 32, 8, 128, 256]] * 3


def test_nan_and_inf_do_not_touch_their_block() -> None:
    rounded, scales = round_blocks_exact([[math.nan, math.inf, -math.inf, 3.0]], parse_format("MXFP4"))
    assert math.isnan(rounded[0][0])
    assert rounded[0][1:] == [3.0, -3.0, 3.0]
    assert scales[0] == [0.5] * 4


def test_a_name_without_a_scale_format_has_no_exact_reference() -> None:
    with pytest.raises(FormatError, match="does not say what its scales are stored in"):
        round_blocks_exact([[1.0]], parse_format("E4M3@row"))


def test_blocks_of_another_shape_are_another_experiment() -> None:
    among = [parse_format(name) for name in ("E2M1", "MXFP4:ceil", "E0M7@32:e8m0", "E1M6@32:e8m0")]
    assert find_equivalents(parse_format("MXFP4"), among) == ()
    assert [found.factor for found in find_equivalents(among[2], among)] == [0.25]
