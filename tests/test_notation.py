from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.notation import (
    MISSING,
    decimals,
    format_value,
    layer_type,
    one_line,
    printable,
    short_layer,
)


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (None, "", MISSING),
        (0.0, "", "0"),
        (-0.0, "", "0"),
        (1.0, "", "1"),
        (0.25, "", "0.25"),
        (0.123456, "", "0.123"),
        (0.9972, "", "0.9972"),
        (0.99964, "", "0.99964"),
        (0.99, "", "0.99"),
        (1.5e-7, "", "1.5e-7"),
        (6e-4, "", "6e-4"),
        (123456.0, "", "1.23e5"),
        (2.12196, "validation_loss", "2.122"),
        (2.1, "loss", "2.100"),
        (math.nan, "loss", "NaN"),
        (math.inf, "", "inf"),
        (-math.inf, "", "-inf"),
        (100000, "", "100,000"),
        (True, "", "yes"),
        ("stall\x1b[31m\n", "", "stall\\x1b[31m\\n"),
        ([1, 2], "", "[1, 2]"),
    ],
)
def test_values_as_a_reader_sees_them(value: object, name: str, text: str) -> None:
    assert format_value(value, name) == text


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_what_is_printed_is_within_half_a_percent(value: float) -> None:
    printed = float(format_value(value))
    assert printed == pytest.approx(value, rel=5.1e-3, abs=0)


@given(st.floats(min_value=0.5, max_value=1, exclude_max=True).filter(lambda v: 1 - v > 1e-15))
def test_a_share_below_one_never_reads_as_one(value: float) -> None:
    printed = float(format_value(value))
    if value >= 0.99:
        assert printed < 1
        assert 1 - printed == pytest.approx(1 - value, rel=0.06)
    else:
        assert printed <= 0.99


def test_layers() -> None:
    assert short_layer("blocks.3.attn.c_attn") == "3 attn.c_attn"
    assert layer_type("blocks.3.attn.c_attn") == "attn.c_attn"
    assert short_layer("lm_head") == layer_type("lm_head") == "lm_head"


def test_decimals_and_what_was_not_measured() -> None:
    assert (decimals(None, 2), decimals(1.005, 2), decimals(float("nan"), 2)) == ("–", "1.00", "nan")


def test_no_text_drives_a_terminal() -> None:
    assert one_line("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert printable("a\x1b\nb") == "a\\x1b\nb"
