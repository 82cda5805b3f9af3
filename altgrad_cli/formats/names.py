"""From a name to a format: ``E7M0``, ``e3m4:bias=3``, ``E4M3:fnuz``, ``bf16``, ``float8_e4m3fn``.

A name is ``ExMy`` or an alias, then options after colons: one dialect (``finite``, ``ieee``, ``fn``,
``fnuz``, ``p3109``) and ``bias=N``. A dialect other than the name's own brings its own customary bias;
``bias=`` overrides it. After an @ it may say which values share a scale (``formats.block_spec``); all of a
tensor do where it does not. The name of the parsed format is canonical: two spellings of one grid meet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from altgrad_cli.errors import FormatError, nearest
from altgrad_cli.formats.block_spec import ONE_SCALE, BlockSpec, parse_block
from altgrad_cli.formats.spec import FP8Format

DIALECTS = ("finite", "ieee", "fn", "fnuz", "p3109")
_OPTIONS = (*DIALECTS, "bias=N")

# Bare ExMy names that the field does not read as "finite, bias 2^(E-1) - 1".
_CUSTOMARY: Mapping[tuple[int, int], tuple[str, int]] = MappingProxyType(
    {
        (3, 4): ("finite", 1),  # the study's E3M4: max 124
        (4, 3): ("fn", 7),  # OCP E4M3, torch.float8_e4m3fn: max 448
        (5, 2): ("ieee", 15),  # OCP E5M2: max 57344
    }
)

# Names of their own, where the field has one, for what is otherwise ExMy with options.
_PROPER_NAMES: Mapping[str, str] = MappingProxyType(
    {"BF16": "E8M7:ieee", "FP16": "E5M10:ieee", "E4M3B11FNUZ": "E4M3:fnuz:bias=11"}
)

BLOCK_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "MXFP8_E4M3": "E4M3@32:e8m0",
        "MXFP8_E5M2": "E5M2@32:e8m0",
        "MXFP6_E2M3": "E2M3@32:e8m0",
        "MXFP6_E3M2": "E3M2@32:e8m0",
        "MXFP4": "E2M1@32:e8m0",
        "MXINT8": "E1M6:bias=1@32:e8m0",  # steps of 2^-6; with a -0, and without -2 as OCP allows
        "NVFP4": "E2M1@16:e4m3",
    }
)
"""The formats with blocks that the field has a name for; ``:ceil`` and the like may follow those of MX."""

_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "BFLOAT16": "BF16",
        "FLOAT16": "FP16",
        "HALF": "FP16",
        "E4M3FN": "E4M3:fn",
        "E4M3FNUZ": "E4M3:fnuz",
        "E5M2FNUZ": "E5M2:fnuz",
        "E2M3FN": "E2M3",
        "E3M2FN": "E3M2",
        "E2M1FN": "E2M1",
    }
)

LIBRARY_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "E5M2": ("torch.float8_e5m2", "ml_dtypes.float8_e5m2"),
        "E4M3": ("torch.float8_e4m3fn", "ml_dtypes.float8_e4m3fn"),
        "E5M2:fnuz": ("torch.float8_e5m2fnuz", "ml_dtypes.float8_e5m2fnuz"),
        "E4M3:fnuz": ("torch.float8_e4m3fnuz", "ml_dtypes.float8_e4m3fnuz"),
        "E4M3B11FNUZ": ("ml_dtypes.float8_e4m3b11fnuz",),
        "E4M3:ieee": ("ml_dtypes.float8_e4m3",),
        "E3M4:ieee": ("ml_dtypes.float8_e3m4",),
        "E2M3": ("ml_dtypes.float6_e2m3fn",),
        "E3M2": ("ml_dtypes.float6_e3m2fn",),
        "E2M1": ("ml_dtypes.float4_e2m1fn",),
        "BF16": ("torch.bfloat16", "ml_dtypes.bfloat16"),
        "FP16": ("torch.float16",),
    }
)
"""Canonical name -> the types of other libraries that are this very grid."""

_UNSIGNED = ("E8M0", "E8M0FNU")

_NAMED = (
    *(f"E{exponent_bits}M{7 - exponent_bits}" for exponent_bits in range(8)),
    *("BF16", "FP16"),
    *("E3M4:ieee", "E4M3:ieee", "E4M3:fnuz", "E5M2:fnuz", "E4M3B11FNUZ"),
    *("E2M3", "E3M2", "E2M1"),
)

_PREFIX = re.compile(r"^(?:FLOAT|FP)[468]_", re.IGNORECASE)
_EXMY = re.compile(r"^E([0-9]{1,9})M([0-9]{1,9})$", re.IGNORECASE)
_ALMOST_EXMY = re.compile(r"^E([-+0-9.]*)M([-+0-9.]*)$", re.IGNORECASE)
_INTEGER = re.compile(r"^[-+]?[0-9]{1,9}$")


def parse_format(text: str | FP8Format) -> FP8Format:
    """The format that ``text`` names, with its canonical name; case and spaces around it do not matter.

    A format is returned as it is, so that what takes a format takes its name too. Raises ``FormatError``
    naming the broken rule and the nearest valid names.
    """
    if isinstance(text, FP8Format):
        return text
    if not isinstance(text, str):
        raise FormatError(f"a format cannot be a {type(text).__name__}", allowed="an FP8Format or its name")
    return _parsed(text)


@lru_cache(maxsize=256)
def _parsed(text: str) -> FP8Format:
    first, colon, rest = text.partition(":")
    element, at, shape = (BLOCK_NAMES.get(first.strip().upper(), first) + colon + rest).partition("@")
    try:
        block = parse_block(shape.strip().lower()) if at else ONE_SCALE
    except FormatError as error:
        error.where = f"format name {text!r}"
        raise
    name, *options = (part.strip() for part in element.split(":"))
    if not name:
        raise _refusal("the format's name is empty", text, hint="for example E3M4, e5m2, E4M3:fnuz or BF16")
    name = _PREFIX.sub("", name)
    if name.upper() in _UNSIGNED and not options:
        raise FormatError(
            "the OCP scale format E8M0 is unsigned and has no zero: it is not expressible here, "
            "where every format has a sign",
            where=f"format name {text!r}",
            allowed="signed formats",
            hint="E7M0 is the signed power-of-two format; for the scales of blocks write E4M3@32:e8m0",
        )
    known = {**_ALIASES, **_PROPER_NAMES}.get(name.upper())
    if known is not None:
        name, *implied = known.split(":")
        if known in _PROPER_NAMES:  # an alias of a proper name: FLOAT16 -> FP16 -> E5M10:ieee
            name, *implied = _PROPER_NAMES[known].split(":")
        options = _with_implied(implied, options)
    exponent_bits, mantissa_bits = _field_widths(name, text)
    dialect, bias = _read_options(options, text)
    return _build(exponent_bits, mantissa_bits, dialect, bias, block)


def named_formats() -> tuple[FP8Format, ...]:
    """The formats with a place in the registry, in its order."""
    return tuple(FORMAT_REGISTRY.values())


def customary_bias(exponent_bits: int, dialect: str) -> int:
    """The bias a dialect comes with: 2^(E-1) - 1, one more where nan took the code of -0; E0 has 0."""
    if exponent_bits == 0:
        return 0
    return (1 << (exponent_bits - 1)) - (0 if dialect in ("fnuz", "p3109") else 1)


def nearest_names(text: str, count: int = 3) -> tuple[str, ...]:
    """The valid names closest to ``text``, best first; may be empty."""
    by_key = {name.lower(): name for name in (*FORMAT_REGISTRY, *BLOCK_NAMES, *_ALIASES)}
    found = difflib.get_close_matches(text.strip().lower(), by_key, n=count, cutoff=0.5)
    return tuple(by_key[key] for key in found)


def _with_implied(implied: list[str], options: list[str]) -> list[str]:
    """The options an alias stands for, those given outright overriding theirs of the same kind."""
    given = {_option_kind(option) for option in options}
    return [option for option in implied if _option_kind(option) not in given] + options


def _option_kind(option: str) -> str:
    return "bias" if option.lower().startswith("bias") else "dialect"


def _field_widths(name: str, text: str) -> tuple[int, int]:
    found = _EXMY.match(name)
    if found:
        return int(found[1]), int(found[2])
    almost = _ALMOST_EXMY.match(name)
    if almost:
        which, given = ("exponent", almost[1]) if not almost[1].isdigit() else ("mantissa", almost[2])
        raise _refusal(f"the number of {which} bits must be a whole number >= 0, not {given!r}", text)
    raise _refusal(f"unknown format {name!r}", text)


def _read_options(options: list[str], text: str) -> tuple[str | None, int | None]:
    dialect: str | None = None
    bias: int | None = None
    for option in options:
        key, equals, value = option.lower().partition("=")
        if key == "bias" and equals:
            if not _INTEGER.match(value):
                raise _refusal(
                    f"the bias must be a whole number of at most 9 digits, not {value!r}",
                    text,
                    allowed="bias=N",
                )
            if bias is not None:
                raise _refusal("the bias is given twice", text, allowed="bias=N once")
            bias = int(value)
        elif option.lower() in DIALECTS:
            if dialect not in (None, option.lower()):
                raise _refusal(
                    f"{dialect} and {option.lower()} exclude each other: a format has one dialect",
                    text,
                    allowed=f"one of {', '.join(DIALECTS)}",
                )
            dialect = option.lower()
        else:
            guess = nearest(option, _OPTIONS)
            raise _refusal(
                f"unknown option {option!r}" if option else "an option is missing after the colon",
                text,
                allowed=", ".join(_OPTIONS),
                hint=f"did you mean :{guess}?" if guess else None,
            )
    return dialect, bias


def _build(
    exponent_bits: int, mantissa_bits: int, dialect: str | None, bias: int | None, block: BlockSpec
) -> FP8Format:
    own_dialect, own_bias = _CUSTOMARY.get(
        (exponent_bits, mantissa_bits), ("finite", customary_bias(min(exponent_bits, 16), "finite"))
    )
    dialect = dialect or own_dialect
    default_bias = own_bias if dialect == own_dialect else customary_bias(min(exponent_bits, 16), dialect)
    bias = default_bias if bias is None else bias
    name = f"E{exponent_bits}M{mantissa_bits}"
    name += f":{dialect}" if dialect != own_dialect else ""
    name += f":bias={bias}" if bias != default_bias else ""
    name = next((proper for proper, spelt in _PROPER_NAMES.items() if spelt == name), name)
    if block.name:
        name, ending = f"{name}@{block.plain_name}", block.name.removeprefix(block.plain_name)
        name = next((own for own, spelt in BLOCK_NAMES.items() if spelt == name), name) + ending
    try:
        return FP8Format(
            name,
            exponent_bits,
            mantissa_bits,
            bias,
            has_inf=dialect in ("ieee", "p3109"),
            has_nan=dialect != "finite",
            fn_nan=dialect == "fn",
            negative_zero=dialect not in ("fnuz", "p3109"),
            block=block,
        )
    except FormatError as error:
        error.hint = error.hint or _range_hint(exponent_bits, mantissa_bits) or _did_you_mean(name)
        raise


def _range_hint(exponent_bits: int, mantissa_bits: int) -> str | None:
    if (exponent_bits, mantissa_bits) == (8, 7):
        return "BF16 is E8M7:ieee"
    return None


def _did_you_mean(text: str) -> str | None:
    names = nearest_names(text)
    return f"did you mean {' or '.join(names)}?" if names else None


def _refusal(message: str, text: str, *, allowed: str | None = None, hint: str | None = None) -> FormatError:
    return FormatError(
        message,
        where=f"format name {text!r}",
        allowed=allowed
        or f"ExMy with 1 + E + M <= 16, options {', '.join(_OPTIONS)}; or "
        f"{', '.join((*_NAMED, *BLOCK_NAMES))}; or a block after an @",
        hint=hint or _did_you_mean(text),
    )


FORMAT_REGISTRY: Mapping[str, FP8Format] = MappingProxyType({name: parse_format(name) for name in _NAMED})
