"""The rules a format's fields must keep; each refusal names the rule it enforces."""

from __future__ import annotations

from typing import Protocol

from altgrad_cli.errors import FormatError
from altgrad_cli.formats.exact_text import exact_text

MAX_WIDTH = 16
FLOAT32_EMAX = 127
FLOAT32_SMALLEST_EXPONENT = -149
FLOAT32_MAX = float.fromhex("0x1.fffffep127")


class Fields(Protocol):
    """What the rules look at. ``FP8Format`` has it all, and asks them when it is made."""

    @property
    def name(self) -> str: ...
    @property
    def exponent_bits(self) -> int: ...
    @property
    def mantissa_bits(self) -> int: ...
    @property
    def bias(self) -> int: ...
    @property
    def has_inf(self) -> bool: ...
    @property
    def has_nan(self) -> bool: ...
    @property
    def fn_nan(self) -> bool: ...
    @property
    def negative_zero(self) -> bool: ...
    @property
    def width(self) -> int: ...
    @property
    def dialect(self) -> str: ...
    @property
    def is_fixed_point(self) -> bool: ...
    @property
    def max_code(self) -> int: ...
    @property
    def smallest_exponent(self) -> int: ...


def check_width(format: Fields) -> None:
    """Refuse a format without bits, or with more than 16."""
    exponent_bits, mantissa_bits = format.exponent_bits, format.mantissa_bits
    if exponent_bits < 0 or mantissa_bits < 0 or exponent_bits + mantissa_bits == 0:
        raise FormatError(
            f"a format needs exponent or mantissa bits, not {exponent_bits} and {mantissa_bits}",
            where=format.name,
            allowed="E >= 0, M >= 0, E + M >= 1",
        )
    if format.width > MAX_WIDTH:
        raise FormatError(
            f"{format.name} would have 1 + {exponent_bits} + {mantissa_bits} = {format.width} bits",
            where=format.name,
            allowed=f"1 + E + M <= {MAX_WIDTH}",
        )


def check_specials(format: Fields) -> None:
    """Refuse specials that contradict each other or leave no number."""

    def refuse(message: str, allowed: str | None = None) -> None:
        raise FormatError(message, where=format.name, allowed=allowed)

    if (format.has_inf or format.fn_nan or not format.negative_zero) and not format.has_nan:
        refuse("inf, an all-ones nan and a missing -0 all go with has_nan", "has_nan=True beside them")
    if format.fn_nan and (format.has_inf or not format.negative_zero):
        refuse("fn_nan makes the all-ones code the only special: no inf, and -0 stays")
    if format.dialect == "ieee" and not format.has_inf:
        refuse("nan without inf needs a place: the all-ones code (fn_nan) or that of -0", "fn, fnuz")
    if format.dialect == "ieee" and (format.exponent_bits < 2 or format.mantissa_bits < 1):
        refuse(
            "the ieee dialect gives the top exponent field to inf and nan: "
            "that takes two exponent bits and a mantissa bit",
            "finite, fn, fnuz",
        )
    if format.is_fixed_point and format.bias != 0:
        refuse("a fixed-point format (E0) has no exponent, so no bias", f"step 2^-{format.mantissa_bits}")
    if format.max_code < 1:
        refuse("no code is left for a number above 0", "finite")


def check_range(format: Fields) -> None:
    """Refuse a grid that a float32 carrier cannot hold exactly."""
    # Integer arithmetic first: a bias of a billion must not build a fraction of a billion bits.
    top_field = max(format.max_code >> format.mantissa_bits, 1)
    if top_field - format.bias > FLOAT32_EMAX:
        raise FormatError(
            f"{format.name}: the maximum, about 2^{top_field - format.bias}, exceeds float32's",
            where=f"bias {format.bias}",
            allowed=f"a maximum of at most {exact_text(FLOAT32_MAX)}",
        )
    if format.smallest_exponent < FLOAT32_SMALLEST_EXPONENT:
        raise FormatError(
            f"{format.name}: the smallest step, 2^{format.smallest_exponent}, is below float32's",
            where=f"bias {format.bias}",
            allowed=f"a step of at least 2^{FLOAT32_SMALLEST_EXPONENT}",
        )
