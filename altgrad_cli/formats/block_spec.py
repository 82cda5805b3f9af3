"""Which values of a tensor share a scale, and what that scale is stored in: the part of a name after its @.

    @32:e8m0          32 values along the dimension that the product reduces over; MX
    @16:e4m3          16 of them, a scale in E4M3 under one in float32 for the tensor; NVFP4
    @128x128:float32  tiles of 128 rows by 128 along the reduced dimension
    @row, @col        all values along the reduced dimension, or across it
    @32:e8m0:ceil     E8M0 scales are rounded by ``floor`` unless another way is said

Without a scale format the scales are those that the run's scaling asks for: powers of two, or exact.

Sources: OCP Microscaling Formats 1.0, sections 5 and 6.3 (E8M0, ``floor``); NVIDIA, Pretraining Large
Language Models with NVFP4 (arXiv 2509.25149), and cuBLAS's block quantization for ``rceil``; torchao for
``ceil``, ``even`` and that E4M3 scales are normal numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, get_args

from altgrad_cli.errors import FormatError, nearest

ScaleRounding = Literal["floor", "ceil", "even", "rceil"]
"""How an E8M0 scale follows from the amax of a block, with emax = floor(log2(max)) of the element format:

    floor   2^(floor(log2 amax) - emax): what rounds beyond the maximum is clamped to it
    ceil    2^(ceil(log2 amax) - emax)
    even    as floor, of amax rounded to the element's mantissa
    rceil   2^ceil(log2(amax / max)): the smallest that clamps nothing
"""


@dataclass(frozen=True)
class ScaleFormat:
    """What a scale is stored in. A scale is positive and a normal number: signs and subnormals go unused."""

    name: str
    bits: int
    mantissa_bits: int
    smallest: float
    largest: float

    def nearest(self, value: Fraction) -> Fraction:
        """The nearest scale to ``value`` >= 0, ties to the even mantissa."""
        value = min(max(value, Fraction(self.smallest)), Fraction(self.largest))
        step = Fraction(2) ** (floor_log2(value) - self.mantissa_bits)
        return round(value / step) * step


E8M0 = ScaleFormat("E8M0", 8, 0, 2.0**-127, 2.0**127)
E4M3_SCALE = ScaleFormat("E4M3", 8, 3, 2.0**-6, 448.0)
"""Of blocks under a float32 scale for the whole tensor."""
SCALE_FORMATS: Mapping[str, ScaleFormat] = MappingProxyType(
    {
        "e8m0": E8M0,
        "e4m3": E4M3_SCALE,
        "bf16": ScaleFormat("BF16", 16, 7, 2.0**-126, float.fromhex("0x1.fep127")),
        "float32": ScaleFormat("FLOAT32", 32, 23, 2.0**-126, float.fromhex("0x1.fffffep127")),
    }
)
"""By the name that a block has them under."""


def floor_log2(value: Fraction) -> int:
    """The largest e with 2^e <= ``value`` > 0."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


@dataclass(frozen=True)
class BlockSpec:
    """Which values share a scale, of a tensor as rows along the dimension that a product reduces over.

    ``rows`` by ``columns`` of them do; None means all. Raises ``FormatError`` for what contradicts itself.
    """

    rows: int | None = None
    columns: int | None = None
    scale: ScaleFormat | None = None
    rounding: ScaleRounding | None = None
    """Of E8M0 scales; None for others."""

    def __post_init__(self) -> None:
        if any(size is not None and size < 1 for size in (self.rows, self.columns)):
            raise FormatError(f"a block of {self.shape}", allowed="at least 1 value each way")
        if (self.rounding is not None) != (self.scale == E8M0):
            raise FormatError(
                f"the scale rounding {self.rounding} for scales that are not in E8M0"
                if self.rounding
                else "E8M0 scales without a rounding",
                allowed=f"e8m0 and one of {', '.join(get_args(ScaleRounding))}",
            )
        if self.two_levels and self.whole:
            raise FormatError(
                "a scale in E4M3 for the whole tensor", allowed="one a block, under the tensor's own"
            )

    @property
    def whole(self) -> bool:
        """Whether all values of a tensor share one scale."""
        return self.rows is None and self.columns is None

    @property
    def two_levels(self) -> bool:
        """Whether the scales of blocks are themselves scaled, by one in float32 for the tensor."""
        return self.scale == E4M3_SCALE

    @property
    def scale_bits_a_value(self) -> float:
        """Bits of scale that each value bears; 0 where blocks have no size of their own, or scales no format.

        The scale of the tensor is not counted.
        """
        if self.scale is None or self.rows is None or self.columns is None:
            return 0
        return self.scale.bits / (self.rows * self.columns)

    @property
    def shape(self) -> str:
        """``tensor``, ``row``, ``col``, ``32``, ``128x128``."""
        named = {(None, None): "tensor", (1, None): "row", (None, 1): "col"}.get((self.rows, self.columns))
        if named is not None:
            return named
        return str(self.columns) if self.rows == 1 else f"{self.rows}x{self.columns}"

    @property
    def plain_name(self) -> str:
        """Shape and scale format as a name has them after its @; "" for one scale a tensor, as scaled."""
        if self == ONE_SCALE:
            return ""
        return self.shape + ("" if self.scale is None else f":{self.scale.name.lower()}")

    @property
    def name(self) -> str:
        """``plain_name`` with the scale's rounding, where that is not OCP's."""
        return self.plain_name + ("" if self.rounding in (None, "floor") else f":{self.rounding}")

    def describe(self) -> str:
        """In words: ``a scale in E8M0 (floor) for 32 along the reduced dimension``."""
        lines: dict[tuple[int | None, int | None], str] = {
            (None, None): "a tensor",
            (1, None): "a line along the reduced dimension",
        }
        lines |= {(None, 1): "a line across the reduced dimension"}
        along = f"for {self.columns} along the reduced dimension"
        shape = along if self.rows == 1 else f"a tile of {self.rows} x {self.columns}"
        stored = "" if self.scale is None else f" in {self.scale.name}"
        stored += "" if self.rounding is None else f" ({self.rounding})"
        over = " under one in FLOAT32 a tensor" if self.two_levels else ""
        return f"a scale{stored} {lines.get((self.rows, self.columns), shape)}{over}"


ONE_SCALE = BlockSpec()
"""A scale a tensor, as the run scales."""

_SHAPES = {"tensor": (None, None), "row": (1, None), "col": (None, 1)}
_SIZES = re.compile(r"^(?:([0-9]{1,9}) ?x ?)?([0-9]{1,9})$")
_ALLOWED = "tensor, row, col, a number along the reduced dimension such as 32, or a tile such as 128x128"


def parse_block(text: str) -> BlockSpec:
    """The block that ``text`` names, lower case, as it stands after the @ of a format's name.

    Raises:
        FormatError: an unknown shape, scale format or scale rounding; or one of them twice.
    """
    shape, *options = (part.strip() for part in text.split(":"))
    sizes = _SIZES.match(shape)
    if shape in _SHAPES:
        rows, columns = _SHAPES[shape]
    elif sizes:
        rows, columns = int(sizes[1] or 1), int(sizes[2])
    else:
        guess = nearest(shape, list(_SHAPES))
        raise FormatError(
            f"unknown block shape {shape!r}",
            allowed=_ALLOWED,
            hint=f"did you mean @{guess}?" if guess else None,
        )
    scale: ScaleFormat | None = None
    rounding: ScaleRounding | None = None
    for option in options:
        way = next((way for way in get_args(ScaleRounding) if way == option), None)
        if option in SCALE_FORMATS and scale is None:
            scale = SCALE_FORMATS[option]
        elif way is not None and rounding is None:
            rounding = way
        else:
            known = (*SCALE_FORMATS, *get_args(ScaleRounding))
            guess = nearest(option, known)
            raise FormatError(
                f"{option!r} is given twice or beside another"
                if option in known
                else f"unknown scale {option!r}",
                allowed=f"a scale format ({', '.join(SCALE_FORMATS)}) and for e8m0 a rounding "
                f"({', '.join(get_args(ScaleRounding))})",
                hint=f"did you mean :{guess}?" if guess and option not in known else None,
            )
    if scale == E8M0 and rounding is None:
        rounding = "floor"
    return BlockSpec(rows, columns, scale, rounding)
