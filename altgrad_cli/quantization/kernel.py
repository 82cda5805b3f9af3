"""The arithmetic of rounding: one body of tensor code for every format, device and way of running.

Eager, it walks over slices that stay in the processor's cache, in place, with one reused workspace; traced by
torch.compile (``quantization.compiled``) the same body becomes one fused pass.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from altgrad_cli.quantization.plan import FLOAT32_MANTISSA, FLOAT64_MANTISSA, RoundingPlan
from altgrad_cli.quantization.stochastic import add_and_truncate

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
    """The thread's flat float32 scratch tensor of that ``number``, at least ``size`` values, cut to ``size``."""
    buffers = _workspaces.buffers
    buffer = buffers.get((device, number))
    if buffer is None or buffer.numel() < size:
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            buffer = torch.empty(max(size, SLICE), dtype=torch.float32, device=device)
        buffers[device, number] = buffer
    return buffer[:size]


def round_slice(
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
    """Round the float32 values in ``out`` in place; ``work`` is scratch of the same size and type.

    ``bits`` asks for stochastic rounding. ``magnitude_in_work`` says that ``work`` holds |out| already and
    ``within_limit`` that no magnitude exceeds the format's maximum; both only save passes.
    """
    if divisor is not None:
        out.div_(divisor)
        magnitude_in_work = False
    if plan.wide:
        wide = out.double()
        _round_scaled(wide, torch.empty_like(wide), plan, bits, False, within_limit)
        out.copy_(wide)
    else:
        _round_scaled(out, work, plan, bits, magnitude_in_work, within_limit)
    if factor is not None:
        out.mul_(factor)


def _round_scaled(
    t: Tensor,
    work: Tensor,
    plan: RoundingPlan,
    bits: Tensor | None,
    magnitude_in_work: bool,
    within_limit: bool,
) -> None:
    clamp = plan.saturate and not within_limit
    if plan.uniform:
        if clamp:
            t.clamp_(-plan.limit, plan.limit)
        if bits is None:
            t.round_()
        else:
            add_and_truncate(t, bits)
    else:
        field = _EXPONENT_FIELD[t.dtype]
        mantissa = FLOAT32_MANTISSA if t.dtype == torch.float32 else FLOAT64_MANTISSA
        if clamp:
            t.clamp_(-plan.limit, plan.limit)
        work_bits, t_bits = work.view(_INTEGER[t.dtype]), t.view(_INTEGER[t.dtype])
        if magnitude_in_work and not clamp:
            work_bits.bitwise_and_(field)
        else:
            torch.bitwise_and(t_bits, field, out=work_bits)
        # Now the binade 2^floor(log2|t|); 0 for float32's subnormals, inf for nan and inf.
        if plan.saturate and not plan.wide:
            work.clamp_min_(plan.lowest_binade)
        else:
            work.clamp_(plan.lowest_binade, plan.highest_binade)
        m = plan.step_exponent
        if m and plan.gap_is_normal:
            work_bits.sub_(m << mantissa)
        t.div_(work)
        if m and not plan.gap_is_normal:
            t.mul_(2.0**m)
        if bits is not None:
            add_and_truncate(t, bits)
        else:
            if plan.tie_parity is not None:
                _break_ties_by_code(t_bits, work_bits, plan.tie_parity, mantissa)
            t.round_()
        if m and not plan.gap_is_normal:
            t.mul_(2.0**-m)
        t.mul_(work)
    if not plan.saturate:
        _mark_overflow(t, plan)
    elif not plan.format.negative_zero:
        t.add_(0.0)  # -0 + 0 is +0


def _break_ties_by_code(t_bits: Tensor, binade_bits: Tensor, parity: int, mantissa: int) -> None:
    # Without a mantissa every value is 1 * 2^e and "even" is a property of the code, i.e. of e. Rounding
    # 1.5 to the even integer 2 goes up always; where the lower code is the even one, the tie (and nothing
    # else) is sent down by moving the quotient one float toward zero.
    lowest_bit = torch.bitwise_right_shift(binade_bits, mantissa).bitwise_and_(1)
    if parity == 0:
        lowest_bit.bitwise_xor_(1)
    t_bits.sub_(lowest_bit)


def _mark_overflow(t: Tensor, plan: RoundingPlan) -> None:
    assert plan.overflow_value is not None
    if t.device.type == "cpu" and not torch.compiler.is_compiling() and t.numel():
        low, high = torch.aminmax(t)
        if -plan.limit <= float(low) and float(high) <= plan.limit:
            if not plan.format.negative_zero:
                t.add_(0.0)
            return
    beyond = t.abs().gt_(plan.limit).bool()
    t.copy_(torch.where(beyond, torch.full_like(t, plan.overflow_value).copysign_(t), t))
    if not plan.format.negative_zero:
        t.add_(0.0)
