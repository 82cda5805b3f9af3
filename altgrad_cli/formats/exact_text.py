"""How numbers of a grid are written for people: exact, short, never rounded silently."""

from __future__ import annotations

import math

_PLAIN_MIN = 2.0**-10
_PLAIN_MAX = 1e6


def exact_text(value: float) -> str:
    """``value`` written exactly: ``124``, ``0.0625``, ``2^-62``, ``1.5*2^32``.

    Plain decimals between 2^-10 and a million, a power of two with its significand outside. Specials
    are ``NaN``, ``Infinity`` and ``-Infinity``, the words used in every JSON file; -0 is ``-0``.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    magnitude = abs(value)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if magnitude == 0 or _PLAIN_MIN <= magnitude < _PLAIN_MAX:
        return sign + _plain(magnitude)
    significand, exponent = math.frexp(magnitude)
    power = f"2^{exponent - 1}"
    return sign + (power if significand == 0.5 else f"{_plain(2 * significand)}*{power}")


def _plain(magnitude: float) -> str:
    return str(int(magnitude)) if magnitude == int(magnitude) else repr(magnitude)
