"""Every code of every named format means what gfloat, ml_dtypes and torch say it means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from altgrad_cli.formats import FP8Format, named_formats, parse_format
from tests.formats.oracles import (
    ML_DTYPES,
    assert_same_numbers,
    gfloat_info,
    gfloat_rounded,
    gfloat_values,
)

UNNAMED = ["E3M4:bias=3", "E3M4:fn", "E3M4:p3109", "E4M3:p3109", "E5M2:finite", "E7M0:fn", "E7M0:fnuz"]
UNNAMED += ["E0M3", "E1M0", "E1M3:fnuz", "E2M0", "E6M9:ieee:bias=100", "E0M15", "E4M3:bias=-20"]

ALL = [*named_formats(), *map(parse_format, UNNAMED)]


@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_every_code_decodes_as_gfloat_decodes_it(format: FP8Format) -> None:
    assert_same_numbers(format.values(), gfloat_values(format), range(format.code_count))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_code_decodes_as_ml_dtypes_decodes_it(name: str) -> None:
    format, dtype = parse_format(name), np.dtype(ML_DTYPES[name])
    storage = np.uint16 if format.width > 8 else np.uint8
    codes = np.arange(format.code_count).astype(storage)
    # The sign of a nan is no number: ml_dtypes keeps it, we do not.
    with np.errstate(invalid="ignore"):  # widening a signalling nan
        decoded = codes.view(dtype).astype(np.float64)
    assert_same_numbers(format.values(), decoded, codes)


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("E5M2", torch.float8_e5m2),
        ("E4M3", torch.float8_e4m3fn),
        ("E5M2:fnuz", torch.float8_e5m2fnuz),
        ("E4M3:fnuz", torch.float8_e4m3fnuz),
        ("BF16", torch.bfloat16),
        ("FP16", torch.float16),
    ],
)
def test_every_code_decodes_as_torch_decodes_it(name: str, dtype: torch.dtype) -> None:
    format = parse_format(name)
    codes = torch.arange(format.code_count).to(torch.uint16 if format.width > 8 else torch.uint8)
    assert_same_numbers(format.values(), codes.view(dtype).to(torch.float64).numpy(), codes)


@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_every_code_survives_a_round_trip(format: FP8Format) -> None:
    for code, value in enumerate(format.values()):
        if not np.isnan(value):
            assert format.to_bits(value, saturate=np.isfinite(value)) == code
        else:
            assert np.isnan(format.to_real(format.to_bits(value)))


@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_derived_numbers_are_those_of_the_grid(format: FP8Format) -> None:
    grid = gfloat_values(format)
    positive = np.unique(grid[np.isfinite(grid) & (grid > 0)])
    info = gfloat_info(format)
    assert format.max_representable_value == positive[-1]
    assert grid[format.max_code] == positive[-1]
    assert format.smallest_positive == positive[0]
    assert format.emax == np.frexp(positive[-1])[1] - 1
    assert format.has_inf == bool(np.isinf(grid).any())
    assert format.has_nan == bool(np.isnan(grid).any())
    assert format.negative_zero == bool((np.signbit(grid) & (grid == 0)).any())
    assert format.min_normal == (None if format.is_fixed_point else info.smallest_normal)
    assert format.min_subnormal == (info.smallest_subnormal if format.mantissa_bits else None)
    gaps = np.diff(np.concatenate([[0.0], positive]))
    assert format.is_uniform == (len(set(gaps.tolist())) == 1) or format.code_count <= 8
    every = slice(None, None, max(1, len(positive) // 2048))
    assert [format.gap(value) for value in positive[:-1][every].tolist()] == gaps[1:][every].tolist()
    assert format.gap(0.0) == gaps[0]
    assert np.isnan(format.gap(float("nan")))
    assert format.gap(float("inf")) == format.gap(float(positive[-1]))


@pytest.mark.parametrize(
    "name, maximum, smallest, normal",
    [
        ("E0M7", 127 / 128, 1 / 128, None),
        ("E1M6", 3.96875, 1 / 32, 2.0),
        ("E2M5", 7.875, 1 / 32, 1.0),
        ("E3M4", 124.0, 1 / 16, 1.0),
        ("E4M3", 448.0, 2.0**-9, 2.0**-6),
        ("E5M2", 57344.0, 2.0**-16, 2.0**-14),
        ("E6M1", 1.5 * 2**32, 2.0**-31, 2.0**-30),
        ("E7M0", 2.0**64, 2.0**-62, 2.0**-62),
        ("E3M4:ieee", 15.5, 2.0**-6, 0.25),
        ("E3M4:fn", 30.0, 2.0**-6, 0.25),
        ("E3M4:bias=3", 31.0, 2.0**-6, 0.25),
        ("E3M4:p3109", 15.0, 2.0**-7, 0.125),
    ],
)
def test_the_table_of_the_study(name: str, maximum: float, smallest: float, normal: float | None) -> None:
    format = parse_format(name)
    assert format.max_representable_value == maximum
    assert format.smallest_positive == smallest
    assert format.min_normal == normal


@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_overflow_begins_at_the_first_float32_that_gfloat_rounds_past_the_maximum(format: FP8Format) -> None:
    threshold = format.overflow_threshold
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    maximum = format.max_representable_value
    half_step = format.gap(maximum) / 2
    assert threshold == float(np.float32(threshold))
    assert maximum < below
    assert below - maximum <= half_step <= threshold - maximum
    assert (threshold - maximum == half_step) == (format.max_code % 2 == 1)  # the tie goes to the even code
    if format.has_specials:
        assert not np.isfinite(gfloat_rounded(format, np.array([threshold], np.float32), saturate=False))
        rounded = format.to_real(format.to_bits(threshold, saturate=False))
        assert not np.isfinite(rounded)
        assert format.to_real(format.to_bits(below, saturate=False)) == maximum


def test_e5m2_overflows_from_61440_and_ocp_e4m3_just_above_464() -> None:
    assert parse_format("E5M2").overflow_threshold == 61440.0
    assert parse_format("E4M3").overflow_threshold == float(np.nextafter(np.float32(464), np.float32(465)))
