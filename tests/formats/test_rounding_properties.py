"""Properties of rounding for any format that a name can spell, not only the named ones."""

from __future__ import annotations

import math

import gfloat
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.names import DIALECTS
from altgrad_cli.formats.reference import round_exact, round_stochastic_exact
from tests.formats.oracles import assert_same_numbers, gfloat_info, gfloat_values


@st.composite
def formats(draw: st.DrawFn) -> FP8Format:
    exponent_bits = draw(st.integers(0, 8))
    mantissa_bits = draw(st.integers(0, 10 - exponent_bits))
    options = [draw(st.sampled_from(DIALECTS))]
    if exponent_bits and draw(st.booleans()):
        options.append(f"bias={draw(st.integers(-20, 140))}")
    try:
        return parse_format(":".join([f"E{exponent_bits}M{mantissa_bits}", *options]))
    except FormatError:
        assume(False)
        raise


@st.composite
def inputs(draw: st.DrawFn) -> tuple[FP8Format, float]:
    """A format and a float32, more often than not within the format's range."""
    format = draw(formats())
    if draw(st.booleans()):
        x = draw(st.floats(-1.5, 1.5)) * format.max_representable_value
    else:
        x = draw(st.floats(width=32, allow_nan=False))
    with np.errstate(over="ignore"):
        return format, float(np.float32(x))


SETTINGS = settings(max_examples=200, deadline=None)


@SETTINGS
@given(inputs())
def test_any_format_rounds_any_float32_as_gfloat_does(pair: tuple[FP8Format, float]) -> None:
    format, x = pair
    expected = gfloat.round_float(gfloat_info(format), x, gfloat.RoundMode.TiesToEven, True)
    assert_same_numbers(np.atleast_1d(round_exact(x, format)), np.atleast_1d(expected), [x])
    by_bits = format.to_real(format.to_bits(x))
    assert_same_numbers(np.atleast_1d(by_bits), np.atleast_1d(expected), [x])


@settings(max_examples=60, deadline=None)
@given(formats())
def test_any_format_decodes_as_gfloat_does(format: FP8Format) -> None:
    assert_same_numbers(format.values(), gfloat_values(format), range(format.code_count))


@SETTINGS
@given(inputs())
def test_rounding_is_idempotent_odd_and_within_half_a_gap(pair: tuple[FP8Format, float]) -> None:
    format, x = pair
    rounded = round_exact(x, format)
    assert round_exact(rounded, format) == rounded
    assert round_exact(-x, format) == -rounded
    if abs(x) <= format.max_representable_value:
        assert abs(x - rounded) <= format.gap(x) / 2


@SETTINGS
@given(inputs(), st.floats(-1.2, 1.2))
def test_rounding_is_monotone(pair: tuple[FP8Format, float], place: float) -> None:
    format, x = pair
    y = place * format.max_representable_value
    low, high = min(x, y), max(x, y)
    assert round_exact(low, format) <= round_exact(high, format)


@SETTINGS
@given(inputs(), st.integers(0, 15))
def test_stochastic_rounding_never_leaves_the_two_neighbours(
    pair: tuple[FP8Format, float], bits: int
) -> None:
    format, x = pair
    rounded = round_stochastic_exact(x, format, random_bits=bits, bit_count=4)
    clamped = min(abs(x), format.max_representable_value)
    below = max(value for value in format.magnitudes if value <= clamped)
    above = min((value for value in format.magnitudes if value >= clamped), default=math.inf)
    assert abs(rounded) in (below, above)
    assert rounded == 0 or (rounded > 0) == (x > 0)
