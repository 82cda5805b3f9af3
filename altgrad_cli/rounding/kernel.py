"""The arithmetic of rounding: one body of tensor code for every format, device and way of running.

Eager, it runs in place on slices that stay in the processor's cache (``quantization.eager``); traced by
torch.compile (``quantization.compiled``) or into the graph of a whole training step (``quantization.traced``)
the same body becomes one fused pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from altgrad_cli.rounding.constants import RoundingPlan
from altgrad_cli.rounding.scratch import constant, negative_zero
from altgrad_cli.rounding.stochastic import RandomWork, round_stochastically


class _Carrier(NamedTuple):
    """How a float type spells its numbers."""

    integer: torch.dtype
    mantissa: int
    bias: int
    exponent_field: int

    def bits_of(self, power_of_two: float) -> int:
        """The bits of a normal number 2^e."""
        return math.frexp(power_of_two)[1] - 1 + self.bias << self.mantissa


_CARRIERS = {
    torch.float32: _Carrier(torch.int32, 23, 127, 0x7F800000),
    torch.float64: _Carrier(torch.int64, 52, 1023, 0x7FF0000000000000),
}

Scale = float | Tensor


def round_slice(
    x: Tensor,
    out: Tensor,
    gap: Tensor,
    gap_bits: Tensor,
    plan: RoundingPlan,
    divisor: Scale | None,
    factor: Scale | None,
    random: RandomWork | None = None,
    *,
    magnitude_in_gap: bool = False,
    within_limit: bool = False,
    traced: bool = False,
) -> None:
    """Round the float32 ``x`` into ``out`` (which may be x), dividing before and multiplying after.

    ``gap`` is float32 scratch of the same size and ``gap_bits`` its int32 view. ``random`` asks for
    stochastic rounding. ``magnitude_in_gap`` says that ``gap`` holds |x| already, ``within_limit`` that no
    |x / divisor| exceeds the format's maximum; both only save passes. ``traced`` is for a graph that is
    being recorded: no look at a value, no constants kept in tensors, the same bits.
    """
    if divisor is not None:
        x = torch.div(x, divisor, out=out)
        magnitude_in_gap = False
    if plan.saturate and not within_limit:
        x = torch.clamp(x, -plan.limit, plan.limit, out=out)
        magnitude_in_gap = False
    if plan.uniform:
        _to_integers(x, out, plan, random)
    elif plan.wide:
        wide = x.double()
        wide_gap = torch.empty_like(wide)
        _round_to_gaps(wide, wide, wide_gap, wide_gap.view(torch.int64), plan, random, False, traced)
        out.copy_(wide)
    else:
        last, factor = (factor, None) if plan.factor_folds and isinstance(factor, float) else (1.0, factor)
        _round_to_gaps(x, out, gap, gap_bits, plan, random, magnitude_in_gap, traced, last)
    if plan.overflow_value is not None and not within_limit:
        _mark_overflow(out, plan.limit, plan.overflow_value, traced)
    if not plan.negative_zero:
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
    out: Tensor,
    gap: Tensor,
    gap_bits: Tensor,
    plan: RoundingPlan,
    random: RandomWork | None,
    magnitude_in_gap: bool,
    traced: bool,
    factor: float = 1.0,
) -> None:
    """out = round(x / u) * u, with u = 2^-M p the gap of the grid at x and p the binade, built in ``gap``.

    ``factor``, where ``plan.factor_folds``, multiplies the result.
    """
    carrier = _CARRIERS[x.dtype]
    field = carrier.exponent_field if traced else constant(carrier.exponent_field, carrier.integer)
    if magnitude_in_gap:
        gap_bits.bitwise_and_(field)
    else:
        torch.bitwise_and(x.view(carrier.integer), field, out=gap_bits)
    # Now the binade 2^floor(log2|x|); 0 for the carrier's subnormals, inf for inf and nan.
    # As integers: magnitudes compare like their bits, and a compiler needs fewer operations for it.
    if plan.saturate and not plan.wide:
        gap_bits.clamp_min_(carrier.bits_of(plan.lowest_binade))
    else:
        gap_bits.clamp_(carrier.bits_of(plan.lowest_binade), carrier.bits_of(plan.highest_binade))
    m = plan.step_exponent
    in_one_pass = plan.multiple_fits and not traced
    if traced and plan.gap_is_normal:
        # The reciprocal of a power of two, by its bits: the same quotient without the slow division.
        reciprocal = (2 * carrier.bias + m << carrier.mantissa) - gap_bits
        torch.mul(x, reciprocal.view(x.dtype), out=out)
    elif in_one_pass:
        torch.addcdiv(negative_zero(x.dtype, x.device), x, gap, value=2.0**m, out=out)
    else:
        torch.div(x, gap, out=out).mul_(2.0**m)
    if random is None and plan.tie_parity is not None:
        _break_ties_by_code(out.view(carrier.integer), gap_bits, plan.tie_parity, carrier.mantissa)
    _to_integers(out, out, plan, random)
    if in_one_pass:
        torch.addcmul(negative_zero(x.dtype, x.device), out, gap, value=2.0**-m * factor, out=out)
    else:
        out.mul_(2.0**-m).mul_(gap)


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
