"""Laws that hold for every input: idempotence, oddness, order, scaling, half a gap."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altgrad_cli.formats import FP8Format, named_formats, parse_format
from altgrad_cli.rounding.quantize import quantize, round_to_grid

FORMATS = st.sampled_from(list(named_formats()))
EIGHT_BITS = st.sampled_from([format for format in named_formats() if format.width <= 8])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
SCALES = st.one_of(
    st.integers(-20, 20).map(lambda exponent: 2.0**exponent),
    st.floats(min_value=2.0**-20, max_value=2.0**20),
)
NUMBERS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40)


def around_the_grid(format: FP8Format, scale: float) -> st.SearchStrategy[list[float]]:
    """Values where rounding has something to decide, and any float32 at all."""
    top = min(format.max_representable_value * scale * 2, 3e38)
    inside = st.floats(min_value=-top, max_value=top)
    log = st.floats(min_value=-8.0, max_value=14.0).map(lambda e: format.smallest_positive * scale * 2.0**e)
    return st.lists(
        st.one_of(inside, log, log.map(lambda x: -x), st.floats(width=32)), min_size=1, max_size=30
    )


@settings(deadline=None)
@given(st.data(), FORMATS, SCALES, DTYPES)
def test_rounding_again_changes_nothing(
    data: st.DataObject, format: FP8Format, scale: float, dtype: torch.dtype
) -> None:
    x = torch.tensor(data.draw(around_the_grid(format, scale)), dtype=torch.float64).to(dtype)
    # Only a power of two divides its own products back exactly; the grid itself is unscaled.
    exact = 2.0 ** round(math.log2(scale))
    once = round_to_grid(x, format, exact)
    assert torch.equal(bits(round_to_grid(once, format, exact)), bits(once))


@settings(deadline=None)
@given(st.data(), FORMATS, SCALES, DTYPES)
def test_rounding_is_odd(data: st.DataObject, format: FP8Format, scale: float, dtype: torch.dtype) -> None:
    x = torch.tensor(data.draw(around_the_grid(format, scale)), dtype=torch.float64).to(dtype)
    x = x[~x.isnan()]
    mirrored = -round_to_grid(-x, format, scale)
    rounded = round_to_grid(x, format, scale)
    if format.negative_zero:
        assert torch.equal(bits(mirrored), bits(rounded))
    else:
        assert torch.equal(mirrored, rounded)


@settings(deadline=None)
@given(st.data(), FORMATS, SCALES, DTYPES)
def test_rounding_keeps_the_order(
    data: st.DataObject, format: FP8Format, scale: float, dtype: torch.dtype
) -> None:
    x = torch.tensor(data.draw(around_the_grid(format, scale)), dtype=torch.float64).to(dtype)
    ordered = x[~x.isnan()].sort().values
    rounded = round_to_grid(ordered, format, scale)
    assert (rounded[1:] >= rounded[:-1]).all()


@settings(deadline=None)
@given(NUMBERS, EIGHT_BITS, st.integers(-12, 12), st.integers(-12, 12))
def test_a_power_of_two_moves_through_the_scale(
    numbers: list[float], format: FP8Format, exponent: int, k: int
) -> None:
    """Q(2^k x; 2^k s) = 2^k Q(x; s), bit for bit, where float32 can hold both sides."""
    x = torch.tensor(numbers)
    x = x[(x == 0) | ((x.abs() > 2.0**-100) & (x.abs() < 2.0**100))]
    scale = 2.0**exponent
    moved = round_to_grid(x * 2.0**k, format, scale * 2.0**k)
    assert torch.equal(bits(moved), bits(round_to_grid(x, format, scale) * 2.0**k))


@settings(deadline=None)
@given(st.data(), FORMATS, SCALES)
def test_the_error_is_at_most_half_a_gap(data: st.DataObject, format: FP8Format, scale: float) -> None:
    exact = 2.0 ** round(math.log2(scale))
    x = torch.tensor(data.draw(around_the_grid(format, exact)))
    x = x[x.abs() <= format.max_representable_value * exact]
    rounded = round_to_grid(x, format, exact)
    for value, q in zip(x.tolist(), rounded.tolist(), strict=True):
        assert abs(q - value) <= format.gap(value / exact) * exact / 2


@settings(deadline=None)
@given(NUMBERS, SCALES)
def test_e1m6_is_e0m7_times_four(numbers: list[float], scale: float) -> None:
    x = torch.tensor(numbers)
    x = x[x.abs() < 2.0**100]
    four = round_to_grid(x * 4, parse_format("E1M6"), scale)
    assert torch.equal(bits(four), bits(round_to_grid(x, parse_format("E0M7"), scale) * 4))


@settings(deadline=None)
@given(NUMBERS, EIGHT_BITS, SCALES, st.integers(1, 4))
def test_the_layout_of_the_tensor_does_not_matter(
    numbers: list[float], format: FP8Format, scale: float, rows: int
) -> None:
    x = torch.tensor(numbers * rows).view(rows, -1)
    expected = round_to_grid(x, format, scale)
    assert torch.equal(bits(round_to_grid(x.T, format, scale)), bits(expected.T))
    assert torch.equal(bits(round_to_grid(x.T.contiguous().T, format, scale)), bits(expected))
    wide = torch.cat([x, x], dim=1)
    assert torch.equal(
        bits(round_to_grid(wide[:, ::2], format, scale)), bits(round_to_grid(wide, format, scale)[:, ::2])
    )


@settings(deadline=None)
@given(NUMBERS, FORMATS, SCALES)
def test_the_gradient_is_the_identity_for_every_input(
    numbers: list[float], format: FP8Format, scale: float
) -> None:
    x = torch.tensor(numbers, requires_grad=True)
    upstream = torch.arange(1.0, len(numbers) + 1)
    quantize(x, format, scale).backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, upstream)


@pytest.mark.parametrize("name", ["E5M2", "E7M0", "E1M6"])
def test_a_huge_tensor_is_its_slices(name: str) -> None:
    x = torch.randn(3_000_001, generator=torch.Generator().manual_seed(1))
    rounded = round_to_grid(x, parse_format(name), 0.01)
    for start in (0, 1_234_567, 2_999_000):
        part = slice(start, start + 1001)
        assert torch.equal(rounded[part], round_to_grid(x[part], parse_format(name), 0.01))


def bits(x: torch.Tensor) -> torch.Tensor:
    """The float32 bits, nan made one nan, so that equality tells -0 from +0."""
    return torch.where(x.isnan(), torch.nan, x.float()).contiguous().view(torch.int32)
