"""What an update can do to a weight that lives on the grid, and how often it can do nothing.

A stored weight moves only when the update carries it past half the gap to its neighbour. The gap up and
the gap down differ at a power of two (E7M0: up w/2, down w/4), so both directions count. Weights are
taken as N(0, std^2), rounded at the scale that training would give them; updates either have the spread
of Adam's steps in the long run or the size of its first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from altgrad_cli.formats.scale import stored_scale
from altgrad_cli.formats.spec import FP8Format

# The largest of about 150,000 normal weights, in standard deviations: the size of a small layer.
AMAX_IN_STDS = 4.5


@dataclass(frozen=True)
class HalfGaps:
    """An update must exceed ``up`` (away from zero) or ``down`` to move a weight stored as ``stored``.

    ``up`` is inf at the maximum: nothing lies above. At 0 both are half the smallest step.
    """

    stored: float
    up: float
    down: float


@dataclass(frozen=True)
class StallPrediction:
    """The share of weights that one update leaves where they are, and what it was computed for."""

    learning_rate: float
    std: float
    beta1: float
    scale: float
    long_run: float  # dw ~ N(0, adam_update_deviation^2)
    first_step: float  # |dw| = lr, either sign
    stored_as_zero: float  # share of weights that the grid stores as 0


def adam_update_deviation(learning_rate: float, beta1: float) -> float:
    """Standard deviation of Adam's steps in the long run, lr * sqrt((1 - b1) / (1 + b1)).

    The momentum of independent unit gradients has this variance, and v is about 1 then.
    """
    return learning_rate * math.sqrt((1 - beta1) / (1 + beta1))


def half_gaps(format: FP8Format, weight: float, scale: float = 1.0) -> HalfGaps:
    """The half gaps around ``weight`` as it is stored at ``scale``, in the weight's own units."""
    magnitudes = format.magnitudes
    code = format.to_bits(abs(weight) / scale)
    up, down = _half_gaps_of_code(magnitudes, code)
    return HalfGaps(math.copysign(scale * magnitudes[code], weight), scale * up, scale * down)


def predicted_stall(
    format: FP8Format, learning_rate: float, std: float, *, beta1: float = 0.9, scale: float | None = None
) -> StallPrediction:
    """The share of weights w ~ N(0, std^2) whose directional half gap exceeds the update.

    ``scale`` is that of the stored weights; by default ``stored_scale`` for amax = 4.5 std. In the long
    run Adam's normalised step averages noisy gradients, so dw ~ N(0, ``adam_update_deviation``^2); at the
    first step |dw| is lr exactly, up or down alike, and an update of exactly half a gap moves a weight
    only towards an even code.
    """
    if scale is None:
        scale = stored_scale(format, AMAX_IN_STDS * std)
    spread = adam_update_deviation(learning_rate, beta1)
    magnitudes = format.magnitudes
    long_run = first_step = 0.0
    share_below = 0.0
    stored_as_zero = 0.0
    for code, value in enumerate(magnitudes):
        up, down = (scale * half for half in _half_gaps_of_code(magnitudes, code))
        share_up_to = math.erf((scale * value + up) / (std * math.sqrt(2)))
        share, share_below = share_up_to - share_below, share_up_to
        if code == 0:
            stored_as_zero = share
        long_run += share * (_within(up, spread) + _within(down, spread)) / 2
        first_step += share * (_stays(learning_rate, up, code) + _stays(learning_rate, down, code)) / 2
    return StallPrediction(learning_rate, std, beta1, scale, long_run, first_step, stored_as_zero)


def _half_gaps_of_code(magnitudes: tuple[float, ...], code: int) -> tuple[float, float]:
    up = (magnitudes[code + 1] - magnitudes[code]) / 2 if code + 1 < len(magnitudes) else math.inf
    return up, (magnitudes[code] - magnitudes[code - 1]) / 2 if code else up


def _within(half_gap: float, spread: float) -> float:
    """P(|dw| < half gap) for dw ~ N(0, spread^2); a spread of 0 moves nothing."""
    return math.erf(half_gap / (spread * math.sqrt(2))) if spread > 0 else 1.0


def _stays(update: float, half_gap: float, code: int) -> bool:
    return update < half_gap or (update == half_gap and code % 2 == 0)
