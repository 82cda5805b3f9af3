"""Codes against the exact scalar path, the code index against the order of the values, histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altgrad_cli.errors import FormatError, UsageError
from altgrad_cli.formats import FP8Format, named_formats, parse_format
from altgrad_cli.rounding.quantize import (
    NAN_INDEX,
    code_histogram,
    code_index,
    dequantize,
    encode,
    round_to_grid,
)
from tests.formats.oracles import ML_DTYPES, assert_same_numbers, probe_inputs

NAMED = list(named_formats())
EXTREME = [
    parse_format(name) for name in ("E5M2:bias=140", "E8M7:bias=130", "E0M15", "E1M6:fnuz", "E3M4:p3109")
]


@pytest.mark.parametrize("format", NAMED + EXTREME, ids=lambda format: format.name)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_codes_are_those_of_the_scalar_path(format: FP8Format, scale: float) -> None:
    inputs = probe_inputs(format)[:: 1 if format.width <= 8 else 37]
    with np.errstate(over="ignore"):
        scaled = inputs / np.float32(scale)
    codes = encode(torch.from_numpy(inputs), format, scale)
    assert codes.dtype == (torch.uint8 if format.width <= 8 else torch.int32)
    assert codes.tolist() == [format.to_bits(y) for y in scaled.tolist()]
    assert_same_numbers(
        dequantize(codes, format, scale), round_to_grid(torch.from_numpy(inputs), format, scale)
    )


@pytest.mark.parametrize("name", sorted(ML_DTYPES))
def test_every_code_decodes_as_ml_dtypes_decodes_it_and_encodes_back(name: str) -> None:
    format = parse_format(name)
    codes = np.arange(format.code_count, dtype=np.uint8 if format.width <= 8 else np.uint16)
    with np.errstate(invalid="ignore"):  # signalling nans
        expected = codes.view(ML_DTYPES[name]).astype(np.float64)
    values = dequantize(torch.from_numpy(codes.astype(np.int32)), format)
    assert_same_numbers(values.double(), expected)
    finite = values.isfinite()
    assert torch.equal(encode(values, format)[finite].int(), torch.arange(format.code_count)[finite].int())


def test_inf_and_nan_have_codes_only_where_the_format_has_them() -> None:
    special = torch.tensor([math.inf, -math.inf, math.nan])
    e5m2 = parse_format("E5M2")
    assert encode(special, e5m2, overflow="ieee").tolist() == [0x7C, 0xFC, 0x7F]
    assert encode(special, e5m2).tolist() == [0x7B, 0xFB, 0x7F]
    assert encode(special, parse_format("E4M3:fnuz")).tolist() == [0x7F, 0xFF, 0x80]
    with pytest.raises(FormatError, match="nan"):
        encode(special, parse_format("E3M4"))


def test_what_dequantize_refuses() -> None:
    with pytest.raises(UsageError, match="integers"):
        dequantize(torch.ones(2), parse_format("E5M2"))
    for code in (-1, 16):
        with pytest.raises(FormatError, match="code"):
            dequantize(torch.tensor([code]), parse_format("E2M1"))


@pytest.mark.parametrize("format", NAMED, ids=lambda format: format.name)
def test_the_index_counts_grid_points(format: FP8Format) -> None:
    """Sorted values have consecutive indices; both zeros have 0; a scale changes nothing."""
    values = torch.tensor(sorted({value for value in format.values() if math.isfinite(value)}))
    expected = torch.arange(len(values), dtype=torch.int32) - len(values) // 2
    assert torch.equal(code_index(values, format), expected)
    for scale in (0.25, 8.0):
        if math.isfinite(format.max_representable_value * scale) and format.width <= 8:
            assert torch.equal(code_index(values * scale, format, scale), expected)
    signed_zeros = torch.tensor([0.0, -0.0, math.nan, math.inf])
    assert code_index(signed_zeros, format).tolist() == [0, 0, NAN_INDEX, format.max_code]


def test_codes_are_read_before_the_scale_is_multiplied_back() -> None:
    """(q * s) / s is not always q; the codes of a rounded tensor must be those of the rounding."""
    format, scale = parse_format("E3M4"), 0.0371
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    exact = [format.to_bits(y) for y in (x / torch.tensor(scale)).tolist()]
    assert encode(x, format, scale).tolist() == exact


@pytest.mark.parametrize("name", ["E5M2", "E0M7", "E7M0", "E4M3:fnuz", "BF16"])
def test_the_histogram_counts_every_value_once(name: str) -> None:
    format = parse_format(name)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5000, generator=generator) * min(format.max_representable_value, 1e30)
    x[:7] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, math.nan, 1e-45])
    counts = code_histogram(x.view(50, 100), format, 0.5)
    expected = np.zeros(format.code_count + 1, np.int64)
    for y in (x / 0.5).tolist():
        expected[format.code_count if math.isnan(y) else format.to_bits(y)] += 1
    assert counts.tolist() == expected.tolist()
    assert int(counts.sum()) == x.numel()
    assert int(counts[-1]) == 2


def test_nothing_is_counted_in_an_empty_tensor() -> None:
    assert int(code_histogram(torch.empty(0, 3), parse_format("E5M2")).sum()) == 0
    assert encode(torch.empty(0), parse_format("E5M2")).shape == (0,)
    assert code_index(torch.empty(2, 0), parse_format("E5M2")).shape == (2, 0)
