"""Names, options and their refusals: the rule that broke, what is allowed, the nearest valid names."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, named_formats, parse_format
from altgrad_cli.formats.block_spec import SCALE_FORMATS, ScaleRounding
from altgrad_cli.formats.names import DIALECTS, nearest_names


def test_the_registry_holds_each_format_under_its_own_name() -> None:
    assert all(format.name == name for name, format in FORMAT_REGISTRY.items())
    assert all(parse_format(name) == format for name, format in FORMAT_REGISTRY.items())
    assert named_formats() == tuple(FORMAT_REGISTRY.values())
    splits = {(f.exponent_bits, f.mantissa_bits) for f in named_formats() if f.width == 8}
    assert splits == {(e, 7 - e) for e in range(8)}


_TWO_LEVELS = "a scale in E4M3 for 16 along the reduced dimension under one in FLOAT32 a tensor"
_E3M4, _E2M1 = "bias 1, no inf, no nan, max 124", "bias 1, no inf, no nan, max 6"


@pytest.mark.parametrize(
    "spelling, description",
    [
        ("e7m0", "E7M0 (bias 63, no inf, no nan, max 2^64)"),
        (" E3m4 ", "E3M4 (bias 1, no inf, no nan, max 124)"),
        ("E3M4:finite", "E3M4 (bias 1, no inf, no nan, max 124)"),
        ("E3M4:bias=3:finite", "E3M4:bias=3 (bias 3, no inf, no nan, max 31)"),
        ("E3M4:IEEE", "E3M4:ieee (bias 3, inf, nan, max 15.5)"),
        ("E3M4:fn", "E3M4:fn (bias 3, no inf, nan, max 30)"),
        ("E3M4:p3109", "E3M4:p3109 (bias 4, inf, nan, no -0, max 15)"),
        ("E4M3FN", "E4M3 (bias 7, no inf, nan, max 448)"),
        ("E4M3:fn", "E4M3 (bias 7, no inf, nan, max 448)"),
        ("E4M3:finite", "E4M3:finite (bias 7, no inf, no nan, max 480)"),
        ("float8_e4m3fnuz", "E4M3:fnuz (bias 8, no inf, nan, no -0, max 240)"),
        ("E4M3:fnuz:bias=11", "E4M3B11FNUZ (bias 11, no inf, nan, no -0, max 30)"),
        ("E4M3B11FNUZ:bias=8", "E4M3:fnuz (bias 8, no inf, nan, no -0, max 240)"),
        ("float8_e5m2", "E5M2 (bias 15, inf, nan, max 57344)"),
        ("half", "FP16 (bias 15, inf, nan, max 65504)"),
        ("E5M10:ieee", "FP16 (bias 15, inf, nan, max 65504)"),
        ("bfloat16", "BF16 (bias 127, inf, nan, max 1.9921875*2^127)"),
        ("E0M7", "E0M7 (fixed point, no inf, no nan, max 0.9921875)"),
        ("float4_e2m1fn", "E2M1 (bias 1, no inf, no nan, max 6)"),
        ("E6M3", "E6M3 (bias 31, no inf, no nan, max 1.875*2^32)"),
        ("E4M3@tensor", "E4M3 (bias 7, no inf, nan, max 448)"),
        ("e3m4@ROW", f"E3M4@row ({_E3M4}, a scale a line along the reduced dimension)"),
        ("E3M4@col:bf16", f"E3M4@col:bf16 ({_E3M4}, a scale in BF16 a line across the reduced dimension)"),
        ("E3M4@1x128", f"E3M4@128 ({_E3M4}, a scale for 128 along the reduced dimension)"),
        (
            "E3M4 @ 128 x 64 : FLOAT32",
            f"E3M4@128x64:float32 ({_E3M4}, a scale in FLOAT32 a tile of 128 x 64)",
        ),
        ("E3M4@tensor:e8m0:rceil", f"E3M4@tensor:e8m0:rceil ({_E3M4}, a scale in E8M0 (rceil) a tensor)"),
        (
            "e2m1@32:e8m0:floor",
            f"MXFP4 ({_E2M1}, a scale in E8M0 (floor) for 32 along the reduced dimension)",
        ),
        ("mxfp4:ceil", f"MXFP4:ceil ({_E2M1}, a scale in E8M0 (ceil) for 32 along the reduced dimension)"),
        (
            "E2M1FN@16:e4m3",
            f"NVFP4 ({_E2M1}, {_TWO_LEVELS})",
        ),
    ],
)
def test_spellings_meet_in_one_canonical_format(spelling: str, description: str) -> None:
    format = parse_format(spelling)
    assert format.describe() == description
    assert parse_format(format.name) == format


@pytest.mark.parametrize(
    "name, message, hint",
    [
        ("", "the format's name is empty", "for example E3M4, e5m2, E4M3:fnuz or BF16"),
        (":ieee", "the format's name is empty", "for example E3M4, e5m2, E4M3:fnuz or BF16"),
        ("E9M9", "E9M9 would have 1 + 9 + 9 = 19 bits", "did you mean"),
        ("E-1M8", "the number of exponent bits must be a whole number >= 0, not '-1'", "E1M6"),
        ("E8M-1", "the number of mantissa bits must be a whole number >= 0, not '-1'", "did you mean"),
        ("E2.5M3", "the number of exponent bits must be a whole number >= 0, not '2.5'", "E2M3"),
        ("E3M4:bias=abc", "the bias must be a whole number of at most 9 digits, not 'abc'", None),
        ("E3M4:bias=", "the bias must be a whole number of at most 9 digits, not ''", None),
        ("E3M4:bias=1:bias=2", "the bias is given twice", None),
        ("E4M3:fnuz:ieee", "fnuz and ieee exclude each other: a format has one dialect", None),
        ("E4M3:fnus", "unknown option 'fnus'", "did you mean :fnuz?"),
        ("E4M3:", "an option is missing after the colon", None),
        ("E5M2X", "unknown format 'E5M2X'", "did you mean E5M2"),
        ("posit8", "unknown format 'posit8'", None),
        ("E8M0", "the OCP scale format E8M0 is unsigned and has no zero", "E7M0"),
        ("float8_e8m0fnu", "the OCP scale format E8M0 is unsigned and has no zero", "E7M0"),
        ("E8M7", "E8M7: the maximum, about 2^128, exceeds float32's", "BF16 is E8M7:ieee"),
        ("E3M4:bias=-999999999", "exceeds float32's", None),
        ("E3M4:bias=200", "the smallest step, 2^-203, is below float32's", None),
        ("E7M0:ieee", "that takes two exponent bits and a mantissa bit", None),
        ("E1M6:ieee", "that takes two exponent bits and a mantissa bit", None),
        ("E0M7:bias=3", "a fixed-point format (E0) has no exponent, so no bias", None),
        ("E0M0", "a format needs exponent or mantissa bits, not 0 and 0", None),
        ("E1M0:fn", "no code is left for a number above 0", None),
        ("MXFP8", "unknown format 'MXFP8'", "MXFP8_E4M3"),
        ("E4M3@rwo", "unknown block shape 'rwo'", "did you mean @row?"),
        ("E4M3@", "unknown block shape ''", None),
        ("E4M3@0x4", "a block of 0x4", None),
        ("E4M3@32:e9m0", "unknown scale 'e9m0'", "did you mean :e8m0?"),
        ("E4M3@32:e8m0:bf16", "'bf16' is given twice or beside another", None),
        ("E4M3@32:ceil", "the scale rounding ceil for scales that are not in E8M0", None),
        ("NVFP4:ceil", "the scale rounding ceil for scales that are not in E8M0", None),
        ("E4M3@tensor:e4m3", "a scale in E4M3 for the whole tensor", None),
    ],
)
def test_a_refusal_names_the_broken_rule(name: str, message: str, hint: str | None) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(name)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    assert caught.value.where is not None
    if hint is not None:
        assert caught.value.hint is not None
        assert hint in caught.value.hint


def test_every_suggestion_is_valid() -> None:
    for wrong in ("E5M3FN", "E9M9", "E8M0X", "bf61", "fp-16", "E4M3FNU"):
        for name in nearest_names(wrong):
            assert parse_format(name)


NAMES = st.builds(
    lambda e, m, options: ":".join([f"E{e}M{m}", *options]),
    st.integers(0, 9),
    st.integers(0, 16),
    st.lists(st.one_of(st.sampled_from(DIALECTS), st.integers(-140, 160).map("bias={}".format)), max_size=2),
) | st.builds(
    "{}{}:{}:{}".format,
    st.sampled_from(["E4M3@", "e2m1 @ ", "MXFP4"]),
    st.sampled_from(["", "row", "16", "128x128", "3 x 5", "x", "tensor"]),
    st.sampled_from([*SCALE_FORMATS, "fp16"]),
    st.sampled_from([*get_args(ScaleRounding), "e8m0", ""]),
)


@settings(max_examples=300, deadline=None)
@given(NAMES | st.text(max_size=12))
def test_any_text_is_a_format_or_a_format_error(text: str) -> None:
    try:
        format = parse_format(text)
    except FormatError:
        return
    assert parse_format(format.name) == format
    assert parse_format(format.name.lower()) == format


def test_two_names_of_one_grid_never_part() -> None:
    """Canonical names: equal fields have equal names, and different fields different ones."""
    by_fields: dict[tuple[object, ...], str] = {}
    for e in range(6):
        for m in range(6):
            for dialect in DIALECTS:
                for bias in (None, 0, 1, 3, 7):
                    options = [dialect] + ([] if bias is None else [f"bias={bias}"])
                    try:
                        format = parse_format(":".join([f"E{e}M{m}", *options]))
                    except FormatError:
                        continue
                    fields = (e, m, format.bias, format.dialect)
                    assert by_fields.setdefault(fields, format.name) == format.name
    assert len(set(by_fields.values())) == len(by_fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"has_inf": True}, "all go with has_nan"),
        ({"negative_zero": False}, "all go with has_nan"),
        ({"fn_nan": True}, "all go with has_nan"),
        ({"has_nan": True}, "nan without inf needs a place"),
        ({"has_nan": True, "fn_nan": True, "has_inf": True}, "the all-ones code the only special"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, bool], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FP8Format("X", 4, 3, 7, **fields)


def test_a_format_is_frozen_hashable_and_picklable() -> None:
    format = parse_format("E3M4")
    assert len(format.values()) == 256  # fill the caches first: they are no part of the identity
    assert pickle.loads(pickle.dumps(format)) == format == parse_format("e3m4")
    assert len({format, parse_format("e3m4"), parse_format("E3M4:ieee")}) == 2
    block = parse_format("NVFP4")
    assert pickle.loads(pickle.dumps(block)) == block != parse_format("E2M1")
    assert pickle.loads(pickle.dumps(block)).block.two_levels
    with pytest.raises(AttributeError):
        format.bias = 3  # type: ignore[misc]
    with pytest.raises(FormatError, match="256 is not a code of E3M4"):
        format.to_real(256)
    with pytest.raises(FormatError, match="is NaN, not a fraction"):
        parse_format("E4M3").to_fraction(0x7F)
