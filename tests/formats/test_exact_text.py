"""Numbers of a grid as text: exact, and the same number when read back."""

from __future__ import annotations

import math

import pytest

from altgrad_cli.formats import FP8Format, named_formats
from altgrad_cli.formats.exact_text import exact_text


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (124.0, "124"),
        (-0.0625, "-0.0625"),
        (0.9921875, "0.9921875"),
        (2.0**-62, "2^-62"),
        (1.5 * 2**32, "1.5*2^32"),
        (-(2.0**64), "-2^64"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_exact_text(value: float, text: str) -> None:
    assert exact_text(value) == text


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
def test_no_digit_is_lost(format: FP8Format) -> None:
    for value in format.magnitudes[:: 1 + len(format.magnitudes) // 512]:
        factor, _, exponent = exact_text(value).rpartition("2^")
        read = (
            float(factor.rstrip("*") or 1) * 2.0 ** int(exponent)
            if "^" in exact_text(value)
            else float(exponent)
        )
        assert read == value
