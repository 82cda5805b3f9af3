"""Formats that are one experiment under two names: grids equal up to a power of two.

With a power-of-two scale per tensor such formats give the same rounded tensors, bit for bit: E1M6 is
E0M7 times 4. Specials play no part (they are named beside the equivalence): under saturation a grid is
all that rounding sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from altgrad_cli.formats.names import named_formats
from altgrad_cli.formats.spec import FP8Format


@dataclass(frozen=True)
class Equivalent:
    """``format`` has the grid of the format asked about: every value there is ``factor`` times one here."""

    format: FP8Format
    factor: float  # a power of two, != 1 or the same grid under another dialect
    same_specials: bool


def power_of_two_factor(format: FP8Format, other: FP8Format) -> float | None:
    """The power of two f with ``format``'s values = f * ``other``'s values, or None.

    The finite values of all codes must agree in order, so ties (to the even code) and the overflow
    threshold agree as well.
    """
    if format.max_code != other.max_code:
        return None
    factor = format.smallest_positive / other.smallest_positive  # of two powers of two
    pairs = zip(format.magnitudes, other.magnitudes, strict=True)
    return factor if all(mine == factor * theirs for mine, theirs in pairs) else None


def find_equivalents(format: FP8Format, among: Iterable[FP8Format] | None = None) -> tuple[Equivalent, ...]:
    """The formats ``among`` (default: all named ones) with the grid of ``format`` up to a power of two.

    ``format`` itself, that is one with the same name, is left out, and so is one of other blocks.
    """
    found = []
    for other in named_formats() if among is None else among:
        apart = other.name == format.name or other.block != format.block
        factor = None if apart else power_of_two_factor(format, other)
        if factor is not None:
            found.append(Equivalent(other, factor, format.dialect == other.dialect))
    return tuple(found)
