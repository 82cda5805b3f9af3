"""The constants of one rounding: which numbers the tensor code needs for a format and a scale.

Rounding is ``round(t / u) * u``: t = x / s, u = the gap of the grid at t, a power of two read from t's own
bits. Every step but the two roundings named in the equation is exact. Foldings save passes and change no
bit: a power-of-two scale moves into the gap and the bounds, the gap of a uniform grid joins the scale, and
any other scale multiplies the quotient before the gap does. They are refused where float32 could not hold
what they build.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Literal, get_args

from altgrad_cli.errors import FormatError, UsageError, check_choice
from altgrad_cli.formats import FP8Format

Rounding = Literal["nearest", "stochastic"]
Overflow = Literal["saturate", "ieee"]

FLOAT32_EMIN, FLOAT32_EMAX = -126, 127
FLOAT32_MANTISSA, FLOAT64_MANTISSA = 23, 52


class Carrier(Enum):
    """The numbers that a rounding is computed in."""

    INTEGERS = "float32, in whose units the grid is the integers"
    FLOAT32 = "float32"
    FLOAT64 = "float64, for exponents that float32 has not"


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundingPlan:
    """What the tensor code does for one (format, scale, overflow).

    x is divided by ``divisor`` before the rounding and multiplied by it after (None: nothing to do). Between
    the two everything is in units in which the format's 1 is ``one``, a power of two; so are the bounds.
    Plans are compared by identity: ``plan_rounding`` makes each once, and every rounding looks them up.
    """

    format: FP8Format
    scale: float  # the float32 that the carrier divides by
    divisor: float | None
    one: float
    carrier: Carrier
    overflow_value: float | None  # what an overflow becomes; None saturates
    gap_is_normal: bool  # whether every gap is a normal number of the carrier
    multiple_fits: bool  # whether limit * 2^M is one: x may be multiplied first and divided then
    factor_folds: bool  # whether a grid value's significand may be multiplied by the divisor before its power
    tie_parity: int | None  # M = 0: the lowest exponent bit of binades whose code is even

    saturate: bool = field(init=False)  # what is too large becomes the maximum
    limit: float = field(init=False)  # the format's maximum
    lowest_binade: float = field(init=False)  # 2^emin: below it the gap stays the same
    highest_binade: float = field(init=False)  # 2^emax
    overflow_threshold: float = field(init=False)  # from here the rounding exceeds the maximum
    min_normal: float = field(init=False)  # the smallest normal value; 0 for fixed point

    def __post_init__(self) -> None:
        # Worked out here and not when asked for: torch.compile cannot trace a `cached_property`, whose lock
        # (Python 3.11) is a context manager it does not know.
        fmt, one = self.format, self.one
        derived = {
            "saturate": self.overflow_value is None,
            "limit": fmt.max_representable_value * one,
            "lowest_binade": math.ldexp(one, fmt.emin),
            "highest_binade": math.ldexp(one, max(fmt.emax, fmt.emin)),
            "overflow_threshold": fmt.overflow_threshold * one,
            "min_normal": (fmt.min_normal or 0.0) * one,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def float32(value: float) -> float:
    """``value`` rounded to float32 (inf beyond its range)."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def check_scale(scale: float) -> float:
    """The float32 scale for ``scale``. Raises ``UsageError`` unless it is positive and finite in float32."""
    rounded = float32(scale)
    if not (rounded > 0 and math.isfinite(rounded)):
        raise UsageError(
            f"a scale of {scale} cannot divide a float32", allowed="positive and finite in float32"
        )
    return rounded


def is_power_of_two(value: float) -> bool:
    """Whether ``value`` > 0 is 2^k."""
    return math.frexp(value)[0] == 0.5


def _overflow_value(format: FP8Format, overflow: Overflow) -> float | None:
    check_choice("overflow", overflow, get_args(Overflow))
    if overflow == "saturate":
        return None
    if not format.has_specials:
        raise FormatError(
            f"overflow 'ieee' needs a format with inf or nan; {format.name} has neither",
            where=format.describe(),
            allowed="overflow 'saturate'",
        )
    return math.inf if format.has_inf else math.nan


def _fits(format: FP8Format, shift: int) -> bool:
    """Whether the grid times 2^shift stays in float32's normal numbers, with room for what is near it."""
    low = min(format.smallest_exponent, format.emin) + shift
    high = math.frexp(format.max_representable_value)[1] + shift
    # 24 below the smallest step lies everything that can decide a tie: the division by 2^shift that the
    # folding leaves out must have been exact there too.
    return low - FLOAT32_MANTISSA - 1 >= FLOAT32_EMIN and high + 1 <= FLOAT32_EMAX


def _product_is_normal(format: FP8Format, divisor: float) -> bool:
    """Whether no grid value but 0 leaves float32's normal numbers when multiplied back, in whatever order."""
    low = min(1.0, format.smallest_positive) * divisor
    high = max(2.0, format.max_representable_value) * divisor
    return low * 2.0**-format.mantissa_bits >= 2.0**FLOAT32_EMIN and high <= 2.0**FLOAT32_EMAX


@lru_cache(maxsize=4096)
def plan_rounding(format: FP8Format, scale: float | None, overflow: Overflow) -> RoundingPlan:
    """The plan for a scale known on the host; ``scale=None`` for one that lives in a tensor.

    Raises:
        FormatError: overflow "ieee" with a format that has neither inf nor nan.
        UsageError: a scale that is not positive and finite in float32.
    """
    overflow_value = _overflow_value(format, overflow)
    s = 1.0 if scale is None else check_scale(scale)
    m = format.mantissa_bits
    fold = 0
    divisor: float | None = None
    needs_float64 = not format.is_uniform and format.emin < FLOAT32_EMIN
    carrier = Carrier.FLOAT64 if needs_float64 else Carrier.FLOAT32
    if format.is_uniform:
        merged = math.ldexp(s, format.smallest_exponent)
        if 2.0 ** (FLOAT32_EMIN + 24) <= merged <= 2.0**100:
            carrier = Carrier.INTEGERS
            fold = -format.smallest_exponent  # the step becomes 1
        else:
            carrier = Carrier.FLOAT64
            merged = s
        divisor = None if merged == 1 else merged
    elif s != 1:
        exponent = math.frexp(s)[1] - 1
        if not needs_float64 and is_power_of_two(s) and _fits(format, 0) and _fits(format, exponent):
            fold = exponent
        else:
            divisor = s
    in_float64 = carrier is Carrier.FLOAT64
    limit = math.ldexp(format.max_representable_value, fold)
    multiple_fits = in_float64 or limit < 2.0 ** (FLOAT32_EMAX - m)
    return RoundingPlan(
        format=format,
        scale=s,
        divisor=divisor,
        one=math.ldexp(1.0, fold),
        carrier=carrier,
        overflow_value=overflow_value,
        gap_is_normal=in_float64 or format.smallest_exponent + fold >= FLOAT32_EMIN,
        multiple_fits=multiple_fits,
        factor_folds=(
            divisor is not None
            and multiple_fits
            and overflow_value is None
            and _product_is_normal(format, divisor)
        ),
        tie_parity=_tie_parity(format, fold, in_float64) if m == 0 else None,
    )


def _tie_parity(format: FP8Format, fold: int, in_float64: bool) -> int:
    """The lowest bit of the carrier's exponent field in the binades whose code is even.

    The code of 2^e is e - emin + 1; the carrier's field for it is e + fold + its bias.
    """
    even_exponent = format.emin + 1
    carrier_bias = 1023 if in_float64 else 127
    return (even_exponent + fold + carrier_bias) & 1
