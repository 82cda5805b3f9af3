"""From the largest magnitude of a tensor to the scale s it is divided by.

An exact scale puts amax on the format's maximum. A power of two leaves the digits of x / s untouched, so the
grid stays the format's own; it is rounded up, so that amax stays inside.
"""

from __future__ import annotations

import math
from typing import SupportsFloat

from altgrad_cli.errors import UsageError
from altgrad_cli.formats.names import parse_format
from altgrad_cli.formats.spec import FP8Format

SMALLEST_SCALE = 2.0**-126
"""The end of float32: below its smallest normal number a scale would lose digits itself, so none is smaller.
Where it binds, the grid ends above the tensor's amax, and the grid's lowest values are no float32 at all."""

EMPTY_SCALE = 1e-10
"""The scale of a tensor of zeros, which any would suit."""

STORED_HEADROOM = 1.25
"""Room a fresh scale of stored weights leaves above their amax, so that growth does not re-scale at once."""


def compute_scale(amax: SupportsFloat, format: FP8Format | str) -> float:
    """amax / max, exactly (one float64 division), or ``SMALLEST_SCALE`` where that is larger.

    A tensor of zeros (amax = 0) gets ``EMPTY_SCALE``.

    Raises:
        UsageError: amax is negative, nan or inf.
    """
    value = float(amax)
    if not (value >= 0 and math.isfinite(value)):
        raise UsageError(f"no scale follows from amax = {value}", allowed="a finite amax >= 0")
    if value == 0:
        return EMPTY_SCALE
    return max(value / parse_format(format).max_representable_value, SMALLEST_SCALE)


def round_up_to_power_of_two(scale: float) -> float:
    """The smallest power of two >= ``scale`` > 0."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def stored_scale(format: FP8Format, amax: float) -> float:
    """The scale that stored weights start with: 2^ceil(log2(1.25 amax / max)); 1 for E7M0.

    E7M0 spans every weight as it is, and a scale would only move the same powers of two.
    """
    if format.mantissa_bits == 0 and format.exponent_bits >= 7:
        return 1.0
    return round_up_to_power_of_two(compute_scale(STORED_HEADROOM * amax, format))
