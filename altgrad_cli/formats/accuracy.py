"""How well a grid represents numbers: gaps binade by binade, relative error, SQNR of a normal input.

All numbers are closed forms or exact integrals over the rounding cells; nothing is sampled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from altgrad_cli.formats.spec import FP8Format

_SQRT_2 = math.sqrt(2)
_SQRT_2PI = math.sqrt(2 * math.pi)
# Below this gap (in standard deviations) the normal density is flat over a cell and gap^2 / 12 is its
# noise to four digits; the search would spend seconds on the 30,000 cells of a 16-bit format otherwise.
_FINE_GAP = 2.0**-7
# Beyond these the normal distribution holds less than 1e-17 of its power.
_NEGLIGIBLE_BELOW = 2.0**-20
_NEGLIGIBLE_ABOVE = 40.0


@dataclass(frozen=True)
class Binade:
    """The values in [2^exponent, 2^(exponent + 1)) and the gap between them."""

    exponent: int
    gap: float
    value_count: int
    is_normal: bool

    @property
    def relative_gap(self) -> float:
        """The gap over the binade's lowest power of two: the worst relative spacing in it."""
        return self.gap / math.ldexp(1.0, self.exponent)


@dataclass(frozen=True)
class RelativeError:
    """|x - Q(x)| / |x| over [low, high]: the worst, and the mean for log-uniform x."""

    low: float
    high: float
    worst: float
    mean: float


@dataclass(frozen=True)
class GaussianAccuracy:
    """Signal to quantisation noise, in dB, of N(0, 1) rounded as s * Q(x / s) at the best scale s."""

    sqnr_db: float
    scale: float


@lru_cache(maxsize=64)
def binades(format: FP8Format) -> tuple[Binade, ...]:
    """Every binade of the grid from the smallest positive value up, subnormal ones first."""
    first = math.frexp(format.smallest_positive)[1] - 1
    rows = []
    for exponent in range(first, format.emax + 1):
        low = math.ldexp(1.0, exponent)
        gap = format.gap(low)
        top = min(2 * low - gap, format.max_representable_value)
        is_normal = not format.is_fixed_point and exponent >= format.emin
        rows.append(Binade(exponent, gap, round((top - low) / gap) + 1, is_normal))
    return tuple(rows)


def dynamic_range_log2(format: FP8Format) -> float:
    """log2(max / smallest positive value): the octaves between the ends of the grid."""
    return math.log2(format.max_representable_value) - format.smallest_exponent


def relative_error(format: FP8Format) -> RelativeError:
    """Worst and mean relative error where the format keeps its full precision.

    That is the normal range, from the smallest normal to the maximum; a uniform grid has its full
    precision only in its top binade. The worst is u / (1 + u), u = half the gap over the binade's
    power of two, reached at the first midpoint of a binade. The mean is over log-uniform x, integrated
    cell by cell over one whole binade where there is one (they are all alike), else over [low, high].
    """
    high = format.max_representable_value
    low = math.ldexp(1.0, format.emax) if format.is_uniform else math.ldexp(1.0, format.emin)
    half = format.gap(low) / low / 2
    stop = min(2 * low, high)
    first = format.to_bits(low)
    values = format.magnitudes[first : format.to_bits(stop) + 1]
    total = sum(_log_uniform_cell(below, above) for below, above in itertools.pairwise(values))
    worst = half / (1 + half) if len(values) > 1 else 0.0
    mean = total / math.log(stop / low) if len(values) > 1 else 0.0
    return RelativeError(low, high, worst, mean)


def _log_uniform_cell(below: float, above: float) -> float:
    """Integral of |x - Q(x)| / x * dx / x from one value to the next."""
    middle = (below + above) / 2
    from_below = math.log(middle / below) + below / middle - 1
    from_above = above / middle - 1 - math.log(above / middle)
    return from_below + from_above


@lru_cache(maxsize=64)
def gaussian_accuracy(format: FP8Format) -> GaussianAccuracy:
    """The best SQNR over all scales, for N(0, 1) input; saturation counts as error.

    The scale is searched with the maximum between 1 and 64 standard deviations: 8 steps an octave, then
    golden section around the best. A wide format repeats itself octave by octave, so nothing better lies
    beyond; of octaves that are as good to 0.1 % of the noise, the one nearest scale 1 is named.
    """
    top = math.log2(format.max_representable_value)
    steps = [i / 8 - top for i in range(8 * 6 + 1)]
    best = min(steps, key=lambda step: gaussian_noise(format, 2.0**step))
    scale = 2.0 ** _minimum(lambda step: gaussian_noise(format, 2.0**step), best - 1 / 8, best + 1 / 8)
    noise = gaussian_noise(format, scale)
    while scale < 0.5 and gaussian_noise(format, 2 * scale) <= 1.001 * noise:
        scale *= 2
    return GaussianAccuracy(-10 * math.log10(gaussian_noise(format, scale)), scale)


def gaussian_noise(format: FP8Format, scale: float) -> float:
    """E[(x - s Q(x / s))^2] for x ~ N(0, 1): cell by cell, gap^2 / 12 where gaps are far below 1."""
    maximum = scale * format.max_representable_value
    noise = _interval_noise(0.0, scale * format.smallest_positive) + _tail_noise(maximum)
    for binade in binades(format):
        low = scale * 2.0**binade.exponent
        if low < _NEGLIGIBLE_BELOW:
            continue
        if low > _NEGLIGIBLE_ABOVE:
            break
        high = min(2 * low, maximum)
        gap = scale * binade.gap
        if gap <= _FINE_GAP:
            noise += gap * gap / 12 * (_probability_below(high) - _probability_below(low))
        else:
            count = round((high - low) / gap)
            noise += sum(_interval_noise(low + i * gap, low + (i + 1) * gap) for i in range(count))
    return 2 * noise


def _interval_noise(below: float, above: float) -> float:
    """Noise of x between two neighbouring values, each side of their midpoint going to its own."""
    middle = (below + above) / 2
    return _second_moment(below, middle, around=below) + _second_moment(middle, above, around=above)


def _second_moment(start: float, stop: float, *, around: float) -> float:
    """Integral of (x - around)^2 times the normal density from ``start`` to ``stop``."""
    density_start, density_stop = _density(start), _density(stop)
    mass = _probability_below(stop) - _probability_below(start)
    first = density_start - density_stop
    second = mass + start * density_start - stop * density_stop
    return second - 2 * around * first + around * around * mass


def _tail_noise(clip: float) -> float:
    """Integral of (x - clip)^2 times the normal density from ``clip`` on."""
    return (1 + clip * clip) * math.erfc(clip / _SQRT_2) / 2 - clip * _density(clip)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / _SQRT_2PI


def _probability_below(x: float) -> float:
    return math.erf(x / _SQRT_2) / 2


def _minimum(f: Callable[[float], float], low: float, high: float, iterations: int = 24) -> float:
    """Where ``f`` is least between ``low`` and ``high``, by golden section."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = f(left), f(right)
    for _ in range(iterations):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = f(right)
    return (low + high) / 2
