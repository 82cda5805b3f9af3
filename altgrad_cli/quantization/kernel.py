"""The arithmetic of rounding: one body of tensor code for every format, device and way of running.

Eager, it walks over slices that stay in the processor's cache, in place, with one reused workspace; traced by
torch.compile (``quantization.compiled``) the same body becomes one fused pass.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from altgrad_cli.quantization.plan import FLOAT32_MANTISSA, FLOAT64_MANTISSA, RoundingPlan
from altgrad_cli.quantization.stochastic import round_stochastically

SLICE = 1 << 18
"""Values a slice on the CPU: large enough to hide Python, small enough for two buffers in the cache."""


_EXPONENT_FIELD = {torch.float32: 0x7F800000, torch.float64: 0x7FF0000000000000}
_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}


class _Workspaces(threading.local):
    """Scratch buffers of one thread."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[torch.device, int], Tensor] = {}


_workspaces = _Workspaces()


def workspace(size: int, device: torch.device, number: int = 0) -> Tensor:
    """The thread's flat float32 scratch tensor of that ``number``, cut to ``size`` values."""
    buffers = _workspaces.buffers
    buffer = buffers.get((device, number))
    if buffer is None or buffer.numel() < size:
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            buffer = torch.empty(max(size, SLICE), dtype=torch.float32, device=device)
        buffers[device, number] = buffer
    return buffer[:size]


def round_slice(
    x: Tensor,
    out: Tensor,
    work: Tensor,
    plan: RoundingPlan,
    divisor: float | Tensor | None,
    factor: float | Tensor | None,
    *,
    bits: Tensor | None = None,
    magnitude_in_work: bool = False,
    within_limit: bool = False,
) -> None:
    """Round the float32 ``x`` into ``out`` (which may be x); ``work`` is float32 scratch of the same size.

    ``divisor`` and ``factor`` are applied before and after. ``bits`` asks for stochastic rounding.
    ``magnitude_in_work`` says that ``work`` holds |x| already and ``within_limit`` that no |x / divisor|
    exceeds the format's maximum; both only save passes.
    """
    if divisor is not None:
        x = torch.div(x, divisor, out=out)
        magnitude_in_work = False
    if plan.saturate and not within_limit:
        x = torch.clamp(x, -plan.limit, plan.limit, out=out)
        magnitude_in_work = False
    if plan.uniform:
        _to_integers(x, out, bits)
    elif plan.wide:
        wide = x.double()
        _round_to_gaps(wide, wide, torch.empty_like(wide), plan, bits, False)
        out.copy_(wide)
    else:
        _round_to_gaps(x, out, work, plan, bits, magnitude_in_work)
    if plan.overflow_value is not None:
        _mark_overflow(out, plan.limit, plan.overflow_value)
    if not plan.format.negative_zero:
        out.add_(0.0)  # -0 + 0 is +0
    if factor is not None:
        out.mul_(factor)


def _to_integers(x: Tensor, out: Tensor, bits: Tensor | None) -> None:
    if bits is None:
        torch.round(x, out=out)
    else:
        round_stochastically(x, out, bits)


def _round_to_gaps(
    x: Tensor, out: Tensor, gap: Tensor, plan: RoundingPlan, bits: Tensor | None, magnitude_in_gap: bool
) -> None:
    """out = round(x / u) * u, with u the gap of the grid at x, built in ``gap``."""
    integer = _INTEGER[x.dtype]
    field = _EXPONENT_FIELD[x.dtype]
    mantissa = FLOAT32_MANTISSA if x.dtype == torch.float32 else FLOAT64_MANTISSA
    gap_bits = gap.view(integer)
    if magnitude_in_gap:
        gap_bits.bitwise_and_(field)
    else:
        torch.bitwise_and(x.view(integer), field, out=gap_bits)
    # Now the binade 2^floor(log2|x|); 0 for the carrier's subnormals, inf for inf and nan.
    if plan.saturate and not plan.wide:
        gap.clamp_min_(plan.lowest_binade)
    else:
        gap.clamp_(plan.lowest_binade, plan.highest_binade)
    m = plan.step_exponent
    if m and plan.gap_is_normal:
        gap_bits.sub_(m << mantissa)
    torch.div(x, gap, out=out)
    if m and not plan.gap_is_normal:
        out.mul_(2.0**m)
    if bits is None and plan.tie_parity is not None:
        _break_ties_by_code(out.view(integer), gap_bits, plan.tie_parity, mantissa)
    _to_integers(out, out, bits)
    if m and not plan.gap_is_normal:
        out.mul_(2.0**-m)
    out.mul_(gap)


def _break_ties_by_code(quotient_bits: Tensor, binade_bits: Tensor, parity: int, mantissa: int) -> None:
    # Without a mantissa every value is 1 * 2^e and "even" is a property of the code, i.e. of e. Rounding
    # 1.5 to the even integer 2 goes up always; where the lower code is the even one, the tie (and nothing
    # else) is sent down by moving the quotient one float toward zero.
    lowest_bit = torch.bitwise_right_shift(binade_bits, mantissa).bitwise_and_(1)
    if parity == 0:
        lowest_bit.bitwise_xor_(1)
    quotient_bits.sub_(lowest_bit)


def _mark_overflow(q: Tensor, limit: float, value: float) -> None:
    """Replace what lies beyond ``limit`` by ``value`` with its sign."""
    if q.device.type == "cpu" and q.numel() and not torch.compiler.is_compiling():
        low, high = torch.aminmax(q)
        if -limit <= float(low) and float(high) <= limit:
            return
    q.copy_(torch.where(q.abs() > limit, torch.full_like(q, value).copysign_(q), q))
