"""The tensor path rounds as gfloat, ml_dtypes, torch and the exact reference do, on every way through it."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from altgrad_cli.errors import FormatError, UsageError
from altgrad_cli.formats import FP8Format, named_formats, parse_format
from altgrad_cli.formats.reference import round_exact
from altgrad_cli.rounding import constants as plan
from altgrad_cli.rounding import scratch
from altgrad_cli.rounding.codes import code_histogram, code_index
from altgrad_cli.rounding.quantize import STATS, quantize, round_to_grid
from altgrad_cli.rounding.statistics import Counters
from tests.formats.oracles import (
    ML_DTYPES,
    assert_same_numbers,
    gfloat_rounded,
    probe_inputs,
)
from tests.rounding.paths import PATHS

NAMED = list(named_formats())
# Corners of the family: no mantissa with either parity of ties, one exponent bit, exponents at the ends of
# float32, sixteen bits without an exponent, every dialect.
CORNERS = [
    parse_format(name)
    for name in (
        *("E2M0", "E3M0:bias=2", "E7M0:bias=64", "E7M0:fn", "E7M0:bias=126", "E7M0:bias=0"),
        *("E1M0", "E1M6:fnuz", "E0M1", "E0M15", "E1M3:fnuz"),
        *("E5M2:bias=140", "E8M7:bias=130", "E8M0:bias=128", "E5M10:bias=-90", "E4M3:bias=125"),
        *("E3M4:p3109", "E3M4:fn", "E3M4:bias=3", "E5M2:finite"),
    )
]
EVERY = NAMED + CORNERS
WITH_SPECIALS = [format for format in EVERY if format.has_specials]
SCALES = (2.0**-13, 0.25, 8.0, 2.0**40, 0.3, 1 / 57344, 7.0e-11, 123456.789)


def _name(format: FP8Format) -> str:
    return format.name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", NAMED, ids=_name)
def test_every_path_rounds_as_gfloat_does(format: FP8Format, path: str) -> None:
    inputs = probe_inputs(format)
    rounded = PATHS[path](torch.from_numpy(inputs), format, 1.0)
    assert_same_numbers(rounded, gfloat_rounded(format, inputs), inputs)


@pytest.mark.parametrize("format", CORNERS, ids=_name)
def test_corners_of_the_family_round_as_gfloat_does(format: FP8Format) -> None:
    inputs = probe_inputs(format)
    assert_same_numbers(
        round_to_grid(torch.from_numpy(inputs), format, 1.0), gfloat_rounded(format, inputs), inputs
    )


@pytest.mark.parametrize("format", WITH_SPECIALS, ids=_name)
def test_ieee_overflow_is_gfloats(format: FP8Format) -> None:
    inputs = probe_inputs(format)
    expected = gfloat_rounded(format, inputs, saturate=False)
    assert_same_numbers(
        round_to_grid(torch.from_numpy(inputs), format, 1.0, overflow="ieee"), expected, inputs
    )
    assert np.isinf(expected).any() or np.isnan(expected).any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_scale_is_one_float32_division_and_one_product(scale: float, path: str) -> None:
    """Against the exact reference applied to numpy's float32 quotient, whichever way the scale is folded."""
    for format in EVERY:
        inputs, expected = _scaled_case(format, scale)
        rounded = PATHS[path](torch.from_numpy(inputs.copy()), format, scale)
        assert_same_numbers(rounded, expected, inputs)


@cache
def _scaled_case(format: FP8Format, scale: float) -> tuple[np.ndarray, np.ndarray]:
    s = np.float32(scale)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        inputs = _some_inputs(format, np.random.default_rng(11)) * s
        expected = np.array([round_exact(y, format) for y in (inputs / s).tolist()], np.float32) * s
    return inputs, expected


def _some_inputs(format: FP8Format, generator: np.random.Generator) -> np.ndarray:
    """A sample of the probes, normal values over the range, and values around the smallest step."""
    top, bottom = format.max_representable_value, format.smallest_positive
    with np.errstate(over="ignore"):
        normal = (generator.standard_normal(20) * (top / 3)).astype(np.float32)
        tiny = (generator.standard_normal(20) * (3 * bottom)).astype(np.float32)
    specials = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.3e38, -3.4028235e38, 1e-45], np.float32)
    return np.concatenate([generator.choice(probe_inputs(format), 40), normal, tiny, specials])


@pytest.mark.parametrize("name", ["E5M2", "E3M4:ieee", "E4M3", "E4M3:fnuz", "E5M2:fnuz", "E4M3B11FNUZ"])
def test_ieee_overflow_is_that_of_the_ml_dtypes_cast(name: str) -> None:
    """ml_dtypes never saturates: beyond the range its casts give inf, or nan where there is none."""
    format = parse_format(name)
    inputs = probe_inputs(format)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = inputs.astype(ML_DTYPES[name]).astype(np.float32)
    assert_same_numbers(
        round_to_grid(torch.from_numpy(inputs), format, 1.0, overflow="ieee"), expected, inputs
    )


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
def test_in_range_values_round_as_torch_casts_them(name: str, dtype: torch.dtype) -> None:
    format = parse_format(name)
    inputs = torch.from_numpy(probe_inputs(format))
    inputs = inputs[inputs.abs() <= format.max_representable_value]
    assert_same_numbers(round_to_grid(inputs, format, 1.0), inputs.to(dtype).float(), inputs)


@pytest.mark.parametrize(
    "x, expected", [(1.5, 2.0), (3.0, 2.0), (6.0, 8.0), (0.75, 0.5), (1.5 * 2.0**64, 2.0**64)]
)
def test_without_a_mantissa_ties_go_to_the_even_code(x: float, expected: float) -> None:
    e7m0 = parse_format("E7M0")
    assert round_to_grid(torch.tensor([x, -x]), e7m0, 1.0).tolist() == [expected, -expected]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", EVERY, ids=_name)
def test_nan_stays_nan_and_inf_becomes_the_maximum(format: FP8Format, path: str) -> None:
    inputs = torch.tensor([math.nan, math.inf, -math.inf, 1.0, -math.nan])
    # A signalling nan with the smallest payload is the one that bit tricks turn into inf.
    inputs.view(torch.int32)[4] = 0x7F800001
    rounded = PATHS[path](inputs, format, 0.5)
    assert rounded.isnan().tolist() == [True, False, False, False, True]
    top = float(np.float32(format.max_representable_value) * np.float32(0.5))
    assert rounded[1:3].tolist() == [top, -top]


@pytest.mark.parametrize("format", EVERY, ids=_name)
def test_the_sign_of_zero_survives_where_the_format_has_it(format: FP8Format) -> None:
    tiny = min(format.smallest_positive / 8, 1.0)
    inputs = torch.tensor([0.0, -0.0, tiny, -tiny])
    inputs = inputs[:2] if tiny < 2.0**-149 else inputs
    rounded = round_to_grid(inputs, format, 1.0)
    assert rounded.tolist() == [0.0] * len(inputs)
    negative = [False, format.negative_zero] * (len(inputs) // 2)
    assert rounded.signbit().tolist() == negative


def test_float64_is_rounded_once() -> None:
    """Just above a tie in float64, at the tie in float32: the detour would round to even, down."""
    e5m2 = parse_format("E5M2")
    above = torch.tensor([1.125 + 2.0**-40, 1.125 - 2.0**-40, 1.375 - 2.0**-45, -1.125 - 2.0**-50]).double()
    above += torch.tensor([2.0**-40, -(2.0**-40), -(2.0**-45), -(2.0**-50)], dtype=torch.float64)
    assert (above.float().double() != above).all()
    assert round_to_grid(above, e5m2, 1.0).tolist() == [1.25, 1.0, 1.25, -1.25]
    ends = torch.tensor([1e300, -1e300, 1e-300, math.inf, math.nan], dtype=torch.float64)
    rounded = round_to_grid(ends, e5m2, 1.0)
    assert rounded[:4].tolist() == [57344.0, -57344.0, 0.0, 57344.0]
    assert rounded[4].isnan()
    values = torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    halves = (values * 16).round().add(0.5).div(16)  # ties of E0M7 halves and others, nudged below float32
    nudged = halves * (1 + torch.randn(4000, dtype=torch.float64).sign() * 2.0**-45)
    for name in ("E3M4", "E4M3", "E1M6", "BF16"):
        format = parse_format(name)
        expected = [round_exact(x, format) for x in nudged.tolist()]
        assert_same_numbers(round_to_grid(nudged, format, 1.0), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_round_as_their_float32_values(dtype: torch.dtype) -> None:
    x = (torch.randn(1000, generator=torch.Generator().manual_seed(5)) * 3).to(dtype)
    for format in NAMED:
        for scale in (1.0, 0.25, 0.3):
            expected = round_to_grid(x.float(), format, scale)
            assert torch.equal(round_to_grid(x, format, scale), expected)
            assert torch.equal(quantize(x, format, scale), expected.to(dtype))
            assert quantize(x, format, scale).dtype == dtype


def test_shapes_without_values_and_without_dimensions() -> None:
    e3m4 = parse_format("E3M4")
    row = torch.full((len(STATS),), 9.0, dtype=torch.float64)
    assert round_to_grid(torch.empty(3, 0), e3m4, 1.0, stats=row).shape == (3, 0)
    assert row.tolist() == [0.0] * len(STATS)
    zero_d = round_to_grid(torch.tensor(1.03), e3m4, 1.0, stats=row)
    assert zero_d.shape == ()
    assert float(zero_d) == round_exact(float(torch.tensor(1.03)), e3m4)
    assert row[STATS.index("count")] == 1


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_slices_meet_without_a_seam(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2 * scratch.SLICE + extra, generator=torch.Generator().manual_seed(1))
    for name, scale in (("E4M3", 0.25), ("E0M7", 0.3), ("E7M0", 1.0)):
        format = parse_format(name)
        whole = round_to_grid(x, format, scale)
        halves = [round_to_grid(part, format, scale) for part in x.split(scratch.SLICE - 7)]
        assert torch.equal(whole, torch.cat(halves))


def test_one_and_two_threads_give_the_same_bits() -> None:
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(2))
    rows = [torch.zeros(len(STATS), dtype=torch.float64) for _ in range(2)]
    results: list[Tensor] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(round_to_grid(x, parse_format("E4M3"), 0.01, stats=rows[threads - 1]))
    assert torch.equal(*results)
    counts = slice(0, STATS.index("error_sum"))
    assert torch.equal(rows[0][counts], rows[1][counts])


def test_the_gradient_passes_straight_through() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.tensor([1e9, 0.3, -1e-9, 0.0], dtype=dtype, requires_grad=True)
        weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=dtype)
        (quantize(x, parse_format("E3M4"), 0.5) * weights).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, weights)
        assert x.grad.dtype == dtype


def test_it_works_inside_and_after_inference_mode() -> None:
    e5m2 = parse_format("E5M2")
    x = torch.randn(100, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        inside = round_to_grid(x, e5m2, 0.3).clone()
    assert torch.equal(round_to_grid(x, e5m2, 0.3), inside)


def test_what_is_refused() -> None:
    x, e3m4 = torch.ones(3), parse_format("E3M4")
    with pytest.raises(FormatError, match="inf or nan"):
        round_to_grid(x, e3m4, 1.0, overflow="ieee")
    for scale in (0.0, -1.0, math.nan, math.inf, 1e-50, 1e39):
        with pytest.raises(UsageError, match="scale"):
            round_to_grid(x, e3m4, scale)
    with pytest.raises(UsageError, match="float"):
        round_to_grid(torch.ones(3, dtype=torch.int32), e3m4, 1.0)
    with pytest.raises(UsageError, match="out"):
        round_to_grid(x, e3m4, 1.0, out=torch.empty(4))
    with pytest.raises(UsageError, match="out"):
        round_to_grid(x, e3m4, 1.0, out=torch.empty(3, dtype=torch.bfloat16))
    with pytest.raises(UsageError, match="stats"):
        round_to_grid(x, e3m4, 1.0, stats=torch.empty(3))


def test_a_power_of_two_scale_is_folded_only_where_float32_holds_the_result() -> None:
    e4m3 = parse_format("E4M3")
    assert plan.plan_rounding(e4m3, 2.0**-9, "saturate").divisor is None
    assert plan.plan_rounding(e4m3, 2.0**-120, "saturate").divisor == 2.0**-120
    assert plan.plan_rounding(e4m3, 0.3, "saturate").divisor == plan.float32(0.3)


def test_uniform_arms_are_bit_identical_under_power_of_two_scales() -> None:
    """E1M6 is E0M7 times 4: with the scale four times smaller the two are one experiment."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(6))
    for scale in (2.0**-6, 1.0, 2.0**9):
        four_times = round_to_grid(x, parse_format("E1M6"), scale / 4)
        assert torch.equal(four_times, round_to_grid(x, parse_format("E0M7"), scale))


def bits_of(x: Tensor) -> Tensor:
    """The bits, one nan like another."""
    return torch.where(x.isnan(), torch.nan, x).view(torch.int32)


@pytest.mark.parametrize("name", ["E3M4", "E7M0", "E0M7", "E5M2"])
@pytest.mark.parametrize("counters", ["all", "extremes"])
def test_a_scale_a_row_is_each_row_rounded_by_itself(name: str, counters: Counters) -> None:
    format, magnitudes = parse_format(name), 10.0 ** torch.arange(-3, 2).view(5, 1)
    x = torch.randn(5, 70, generator=torch.Generator().manual_seed(3)) * magnitudes
    x[2, 3], x[4, 1] = torch.inf, torch.nan
    scales = torch.tensor([0.25, 0.3, 1e-3, 7.0, 2.0**-9], dtype=torch.float64).view(5, 1)
    whole, *rows = torch.empty(6, len(STATS), dtype=torch.float64).unbind()
    got = round_to_grid(x, format, scales, stats=whole, counters=counters)
    for row in range(5):
        expected = round_to_grid(x[row], format, scales[row], stats=rows[row], counters=counters)
        assert torch.equal(bits_of(got[row]), bits_of(expected))
        for measure in (code_index, code_histogram):
            alone = measure(x[row], format, scales[row])
            one_row = measure(x[row : row + 1], format, scales[row : row + 1])
            assert torch.equal(one_row.view(alone.shape), alone)
    largest, *sums = torch.stack(rows).unbind(1)
    summed = torch.stack([largest.amax(), *(column.sum() for column in sums)])
    assert torch.allclose(whole, summed, rtol=1e-6, equal_nan=True)
    target = torch.empty_like(x)
    assert round_to_grid(x, format, scales, out=target) is target
    assert torch.equal(target.nan_to_num(), got.nan_to_num())
