"""The arithmetic of rounding: one body of tensor code for every format, device and way of running.

E2M1 has the magnitudes 0, .5, 1, 1.5, 2, 3, 4, 6. At scale 1 it rounds three values so:

    t = x / s                 2.3    0.3    100
    clamp to the maximum      2.3    0.3    6
    binade p of t             2      1      4      the power of two at or below |t|, from its exponent bits;
                                                   2^emin = 1 at least, below which the gap stays the same
    gap u = p * 2^-M          1      0.5    2
    k = t / u                 2.3    0.6    3      exact: u is a power of two
    round k to an integer     2      1      3      nearest with ties to even, or stochastically
    k * u, then times s       2      0.5    6

Where k rounds up to 2^(M+1) the product is the next power of two: a carry needs no care. A uniform grid has
one gap, which joins s, so only the rounding to integers is left.

Eager, the body runs in place on slices that stay in the processor's cache (``rounding.eager``); traced into
the graph of a whole pass (``rounding.traced``) it becomes one fused loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from altgrad_cli.rounding.constants import Carrier, RoundingPlan
from altgrad_cli.rounding.scratch import Buffer, constant, negative_zero
from altgrad_cli.rounding.stochastic import RandomWork, round_stochastically


class _FloatType(NamedTuple):
    """How a float type spells its numbers."""

    integer: torch.dtype
    mantissa: int
    bias: int
    exponent_field: int

    def bits_of(self, power_of_two: float) -> int:
        """The bits of a normal number 2^e."""
        return math.frexp(power_of_two)[1] - 1 + self.bias << self.mantissa


_FLOAT_TYPES = {
    torch.float32: _FloatType(torch.int32, 23, 127, 0x7F800000),
    torch.float64: _FloatType(torch.int64, 52, 1023, 0x7FF0000000000000),
}

Scale = float | Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """How a rounding runs and what is known beforehand; but for ``rescale`` the bits do not depend on it."""

    rescale: bool = True
    """Multiply the result by the divisor again; else it is a grid value, in the plan's units."""
    within_limit: bool = False
    """No |x / scale| exceeds the format's maximum."""
    magnitude_in_gap: bool = False
    """The gap's buffer holds |x| already."""
    traced: bool = False
    """A graph is being recorded: no look at a value, no constants kept in tensors."""


TRACED = Mode(traced=True)


def round_slice(
    x: Tensor,
    out: Tensor,
    gap: Buffer,
    plan: RoundingPlan,
    divisor: Scale | None,
    random: RandomWork | None,
    mode: Mode,
) -> None:
    """Round the float32 ``x`` into ``out`` (which may be x), divided by ``divisor`` before.

    ``gap`` is float32 scratch of the same size. ``random`` asks for stochastic rounding.
    """
    factor = divisor if mode.rescale else None
    has_magnitude = mode.magnitude_in_gap
    if divisor is not None:
        x = torch.div(x, divisor, out=out)
        has_magnitude = False
    if plan.saturate and not mode.within_limit:
        x = torch.clamp(x, -plan.limit, plan.limit, out=out)
        has_magnitude = False
    if plan.carrier is Carrier.INTEGERS:
        _to_integers(x, out, plan, random)
    elif plan.carrier is Carrier.FLOAT64:
        x64 = x.double()
        gap64 = torch.empty_like(x64)
        bits64 = x64.view(torch.int64)
        _round_to_gaps(x64, bits64, x64, Buffer(gap64, gap64.view(torch.int64)), plan, random, mode.traced)
        out.copy_(x64)
    else:
        last, factor = (factor, None) if plan.factor_folds and isinstance(factor, float) else (1.0, factor)
        bits = gap.bits if has_magnitude else x.view(torch.int32)
        _round_to_gaps(x, bits, out, gap, plan, random, mode.traced, last)
    if plan.overflow_value is not None and not mode.within_limit:
        _mark_overflow(out, plan.limit, plan.overflow_value, mode.traced)
    if not plan.format.negative_zero:
        out.add_(0.0)  # -0 + 0 is +0
    if factor is not None:
        out.mul_(factor)


def _to_integers(x: Tensor, out: Tensor, plan: RoundingPlan, random: RandomWork | None) -> None:
    if random is None:
        torch.round(x, out=out)
    elif x.dtype == torch.float32:
        round_stochastically(x, out, random, bounded=plan.saturate)
    else:  # a float64 carrier holds a float32 divided by a power of two
        narrow = x.float()
        round_stochastically(narrow, narrow, random, bounded=plan.saturate)
        out.copy_(narrow)


def _round_to_gaps(
    x: Tensor,
    bits: Tensor,
    out: Tensor,
    gap: Buffer,
    plan: RoundingPlan,
    random: RandomWork | None,
    traced: bool,
    factor: float = 1.0,
) -> None:
    """out = round(x / u) * u, with u = 2^-M p the gap of the grid at x and p the binade, built in ``gap``.

    ``bits`` are those of x or of |x|. ``factor``, where ``plan.factor_folds``, multiplies the result.
    """
    u, u_bits = gap
    kind = _FLOAT_TYPES[x.dtype]
    field = kind.exponent_field if traced else constant(kind.exponent_field, kind.integer)
    torch.bitwise_and(bits, field, out=u_bits)
    # Now the binade 2^floor(log2|x|); 0 for the carrier's subnormals, inf for inf and nan.
    # As integers: magnitudes compare like their bits, and a compiler needs fewer operations for it.
    if plan.saturate and plan.carrier is not Carrier.FLOAT64:
        u_bits.clamp_min_(kind.bits_of(plan.lowest_binade))
    else:
        u_bits.clamp_(kind.bits_of(plan.lowest_binade), kind.bits_of(plan.highest_binade))
    m = plan.format.mantissa_bits
    in_one_pass = plan.multiple_fits and not traced
    if traced and plan.gap_is_normal:
        # The reciprocal of a power of two, by its bits: the same quotient without the slow division.
        reciprocal = (2 * kind.bias + m << kind.mantissa) - u_bits
        torch.mul(x, reciprocal.view(x.dtype), out=out)
    elif in_one_pass:
        torch.addcdiv(negative_zero(x.dtype, x.device), x, u, value=2.0**m, out=out)
    else:
        torch.div(x, u, out=out).mul_(2.0**m)
    if random is None and plan.tie_parity is not None:
        _break_ties_by_code(out.view(kind.integer), u_bits, plan.tie_parity, kind.mantissa)
    _to_integers(out, out, plan, random)
    if in_one_pass:
        torch.addcmul(negative_zero(x.dtype, x.device), out, u, value=2.0**-m * factor, out=out)
    else:
        out.mul_(2.0**-m).mul_(u)


def _break_ties_by_code(quotient_bits: Tensor, binade_bits: Tensor, parity: int, mantissa: int) -> None:
    # Without a mantissa every value is 1 * 2^e and "even" is a property of the code, i.e. of e. Rounding
    # 1.5 to the even integer 2 goes up always; where the lower code is the even one, the tie (and nothing
    # else) is sent down by moving the quotient one float toward zero.
    lowest_bit = torch.bitwise_right_shift(binade_bits, mantissa).bitwise_and_(1)
    if parity == 0:
        lowest_bit.bitwise_xor_(1)
    quotient_bits.sub_(lowest_bit)


def _mark_overflow(q: Tensor, limit: float, value: float, traced: bool) -> None:
    """Replace what lies beyond ``limit`` by ``value`` with its sign."""
    if q.device.type == "cpu" and q.numel() and not traced:
        low, high = torch.aminmax(q)
        if -limit <= float(low) and float(high) <= limit:
            return
    q.copy_(torch.where(q.abs() > limit, torch.full_like(q, value).copysign_(q), q))
