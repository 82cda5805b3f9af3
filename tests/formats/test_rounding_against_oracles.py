"""Rounding agrees with gfloat on every value, every midpoint and their float32 neighbours, no exceptions."""

from __future__ import annotations

import math

import gfloat
import ml_dtypes
import numpy as np
import pytest

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, named_formats, parse_format
from altgrad_cli.formats.reference import round_exact, round_stochastic_exact
from tests.formats.oracles import (
    ML_DTYPES,
    assert_same_numbers,
    gfloat_info,
    gfloat_rounded,
    probe_inputs,
)

SMALL = [format for format in named_formats() if format.width <= 8]
SMALL += map(parse_format, ["E3M4:p3109", "E3M4:fn", "E3M4:bias=3", "E7M0:fn", "E1M3:fnuz", "E2M0", "E0M3"])
WIDE = [format for format in named_formats() if format.width > 8]
WITH_SPECIALS = [format for format in SMALL if format.has_specials]


def _by_bits(format: FP8Format, inputs: np.ndarray, *, saturate: bool = True) -> list[float]:
    return [format.to_real(format.to_bits(x, saturate=saturate)) for x in inputs.tolist()]


@pytest.mark.parametrize("format", SMALL, ids=lambda format: format.name)
def test_to_bits_and_the_reference_round_as_gfloat_does(format: FP8Format) -> None:
    inputs = probe_inputs(format)
    expected = gfloat_rounded(format, inputs)
    assert_same_numbers(_by_bits(format, inputs), expected, inputs)
    assert_same_numbers([round_exact(x, format) for x in inputs.tolist()], expected, inputs)


@pytest.mark.parametrize("format", WIDE, ids=lambda format: format.name)
def test_sixteen_bit_formats_round_as_gfloat_does(format: FP8Format) -> None:
    """Every probe through to_bits; every 16th, from a random start, through the slow reference."""
    inputs = probe_inputs(format)
    expected = gfloat_rounded(format, inputs)
    assert_same_numbers(_by_bits(format, inputs), expected, inputs)
    some = slice(int(np.random.default_rng(7).integers(16)), None, 16)
    assert_same_numbers([round_exact(x, format) for x in inputs[some].tolist()], expected[some], inputs[some])


@pytest.mark.campaign
@pytest.mark.parametrize("format", WIDE, ids=lambda format: format.name)
def test_the_reference_rounds_every_probe_of_sixteen_bit_formats(format: FP8Format) -> None:
    inputs = probe_inputs(format)
    rounded = [round_exact(x, format) for x in inputs.tolist()]
    assert_same_numbers(rounded, gfloat_rounded(format, inputs), inputs)


@pytest.mark.parametrize("format", WITH_SPECIALS, ids=lambda format: format.name)
def test_without_saturation_both_round_as_gfloat_does(format: FP8Format) -> None:
    inputs = probe_inputs(format)
    expected = gfloat_rounded(format, inputs, saturate=False)
    assert_same_numbers(_by_bits(format, inputs, saturate=False), expected, inputs)
    rounded = [round_exact(x, format, overflow="ieee") for x in inputs.tolist()]
    assert_same_numbers(rounded, expected, inputs)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_rounding_agrees_with_ml_dtypes(name: str) -> None:
    """ml_dtypes' own overflow convention: inf or nan where the type has one, else the maximum."""
    format = parse_format(name)
    inputs = probe_inputs(format)
    if format.width > 8:
        inputs = inputs[:: 1 + len(inputs) // 50_000]
    with np.errstate(over="ignore"):
        expected = inputs.astype(ML_DTYPES[name]).astype(np.float64)
    rounded = _by_bits(format, inputs, saturate=not format.has_specials)
    assert_same_numbers(rounded, expected, inputs)


def test_the_oracle_itself_would_notice_a_wrong_tie() -> None:
    # gfloat breaks E7M0's ties by the code; a half-even significand would send 1.5 to 1 or 3 to 4.
    e7m0 = FORMAT_REGISTRY["E7M0"]
    ties = {1.5: 2.0, 3.0: 2.0, 6.0: 8.0, 0.75: 0.5}
    for x, rounded in ties.items():
        assert gfloat.round_float(gfloat_info(e7m0), x, gfloat.RoundMode.TiesToEven, True) == rounded
        assert e7m0.to_real(e7m0.to_bits(x)) == rounded
        assert round_exact(x, e7m0) == rounded


@pytest.mark.parametrize("format", [*SMALL, *WIDE], ids=lambda format: format.name)
def test_nan_stays_nan_in_the_carrier_and_is_never_a_number_in_bits(format: FP8Format) -> None:
    assert math.isnan(round_exact(math.nan, format))
    if format.has_nan:
        assert math.isnan(format.to_real(format.to_bits(math.nan)))
    else:
        with pytest.raises(FormatError, match="no code for nan"):
            format.to_bits(math.nan)


def test_a_finite_format_refuses_to_overflow() -> None:
    e3m4 = FORMAT_REGISTRY["E3M4"]
    with pytest.raises(FormatError, match="no code for 126 without saturation"):
        e3m4.to_bits(126.0, saturate=False)
    with pytest.raises(FormatError, match="neither"):
        round_exact(1.0, e3m4, overflow="ieee")
    # gfloat refuses the same.
    with pytest.raises(ValueError, match="No Infs or NaNs"):
        gfloat.round_float(gfloat_info(e3m4), 126.0, gfloat.RoundMode.TiesToEven, False)


@pytest.mark.parametrize("bit_count", [1, 3, 8])
@pytest.mark.parametrize("format", SMALL, ids=lambda format: format.name)
def test_stochastic_rounding_is_gfloats_for_the_same_bits(format: FP8Format, bit_count: int) -> None:
    generator = np.random.default_rng(bit_count)
    inputs = probe_inputs(format)
    inputs = inputs[generator.integers(len(inputs), size=150)]
    inside = np.float32(format.max_representable_value) * generator.uniform(-1.1, 1.1, 150)
    inputs = np.concatenate([inputs, inside.astype(np.float32)])
    bits = generator.integers(1 << bit_count, size=len(inputs))
    info = gfloat_info(format)
    pairs = list(zip(inputs.tolist(), bits.tolist(), strict=True))
    expected = [
        gfloat.round_float(info, x, gfloat.RoundMode.StochasticFast, True, srbits=b, srnumbits=bit_count)
        for x, b in pairs
    ]
    rounded = [round_stochastic_exact(x, format, random_bits=b, bit_count=bit_count) for x, b in pairs]
    assert_same_numbers(rounded, expected, inputs)


def test_stochastic_rounding_over_all_bits_is_exactly_unbiased() -> None:
    # 0.3 of the way between 64 and 68 in E3M4 is not a multiple of 1/256: rounded to 77/256.
    e3m4, count = FORMAT_REGISTRY["E3M4"], 256
    rounded = [round_stochastic_exact(65.2, e3m4, random_bits=b, bit_count=8) for b in range(count)]
    assert set(rounded) == {64.0, 68.0}
    assert rounded.count(68.0) == round(0.3 * count)
    with pytest.raises(FormatError, match="256 does not fit in 8 random bits"):
        round_stochastic_exact(65.2, e3m4, random_bits=256, bit_count=8)


def test_ml_dtypes_overflow_convention_is_as_stated() -> None:
    assert math.isinf(float(ml_dtypes.float8_e5m2(61440.0)))
    assert float(ml_dtypes.float8_e5m2(61439.0)) == 57344.0
    assert math.isinf(float(ml_dtypes.float8_e3m4(15.75)))
    assert math.isnan(float(ml_dtypes.float8_e4m3fn(464.001)))
