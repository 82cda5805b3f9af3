"""``round_to_grid``: check, cut into slices, round, count. No autograd here.

On the CPU a tensor is walked in slices that stay in the cache; elsewhere it is one slice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format
from altgrad_cli.quantization.kernel import SLICE, round_slice, workspace
from altgrad_cli.quantization.plan import Overflow, Rounding, RoundingPlan, plan_rounding
from altgrad_cli.quantization.statistics import STATS, SliceCounter, count_everywhere
from altgrad_cli.quantization.stochastic import draw_bits


def round_to_grid(
    x: Tensor,
    format: FP8Format,
    scale: float | Tensor = 1.0,
    *,
    rounding: Rounding = "nearest",
    overflow: Overflow = "saturate",
    generator: torch.Generator | None = None,
    bits: Tensor | None = None,
    out: Tensor | None = None,
    stats: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Q(x) on the float32 carrier, without autograd.

    Args:
        x: any shape, any float dtype. float64 is narrowed to float32 with its discarded digits kept as a
            sticky bit, so that the narrowing never makes or breaks a tie: it too is rounded once.
        scale: s > 0, a number or a 0-d tensor (which is not read back from a device).
        rounding: ``"nearest"`` (ties to the even code) or ``"stochastic"``.
        overflow: ``"saturate"`` or ``"ieee"``.
        generator: the random stream of stochastic rounding; the default stream where None.
        bits: the random bits themselves, integers in [0, 2^STOCHASTIC_BITS) of x's shape, instead.
        out: float32, x's shape, receives the result; may be x.
        stats: 1-D float64 of ``len(STATS)`` on x's device, receives the counts without a wait for it.
        compiled: use the compiled form of the same code (same bits) where a compiler is present.

    Raises:
        FormatError: ``overflow="ieee"`` with a format that has neither inf nor nan.
        UsageError: a scale that is not positive and finite in float32; a wrong dtype or shape.
    """
    _check_tensors(x, out, stats)
    stochastic = rounding == "stochastic"
    if isinstance(scale, Tensor) and scale.device.type == "cpu" and not torch.compiler.is_compiling():
        scale = float(scale)
    plan = plan_rounding(format, None if isinstance(scale, Tensor) else float(scale), overflow)
    with torch.no_grad():
        x = x.detach()
        if bits is not None and bits.numel() != x.numel():
            raise UsageError(f"{bits.numel()} random bits for {x.numel()} values", allowed="one for each")
        if stochastic and bits is None:
            bits = draw_bits(x.numel(), generator, x.device)
        result = torch.empty(x.shape, dtype=torch.float32, device=x.device) if out is None else out.detach()
        source = x if x.is_contiguous() else x.contiguous()
        target = (
            result if result.is_contiguous() else torch.empty(x.shape, dtype=torch.float32, device=x.device)
        )
        _round_flat(
            source.view(-1),
            target.view(-1),
            plan,
            scale,
            bits.reshape(-1) if stochastic and bits is not None else None,
            stats,
        )
        if target is not result:
            result.copy_(target)
    return result if out is None else out


def _check_tensors(x: Tensor, out: Tensor | None, stats: Tensor | None) -> None:
    if not x.is_floating_point():
        raise UsageError(f"only float tensors can be rounded, not {x.dtype}")
    if out is not None and (out.dtype != torch.float32 or out.shape != x.shape):
        raise UsageError(
            f"out is {out.dtype} of shape {tuple(out.shape)}", allowed=f"float32 of shape {tuple(x.shape)}"
        )
    if stats is not None and (stats.dtype != torch.float64 or stats.shape != (len(STATS),)):
        raise UsageError(
            f"stats is {stats.dtype} of shape {tuple(stats.shape)}", allowed=f"float64 ({len(STATS)},)"
        )


def _round_flat(
    x: Tensor,
    out: Tensor,
    plan: RoundingPlan,
    scale: float | Tensor,
    bits: Tensor | None,
    stats: Tensor | None,
) -> None:
    divisor, factor = _scale_operands(plan, scale, x.device)
    on_cpu = x.device.type == "cpu"
    counter = SliceCounter(plan, plan.scale) if stats is not None and on_cpu else None
    size = min(x.numel(), SLICE) if on_cpu else x.numel()
    work = workspace(size, x.device)
    for start in range(0, x.numel(), size or 1):
        stop = min(start + size, x.numel())
        part, target, scratch = x[start:stop], out[start:stop], work[: stop - start]
        part_bits = None if bits is None else bits[start:stop]
        if part.dtype != torch.float32:
            narrow_into(part, target)
            part = target
        if counter is not None:
            within = counter.before(part, scratch)
            round_slice(
                part,
                target,
                scratch,
                plan,
                divisor,
                factor,
                bits=part_bits,
                magnitude_in_work=True,
                within_limit=within,
            )
            counter.after(target)
        else:
            before = part.clone() if stats is not None else None
            round_slice(part, target, scratch, plan, divisor, factor, bits=part_bits)
            if stats is not None and before is not None:
                used = scale if isinstance(scale, Tensor) else plan.scale
                stats.copy_(count_everywhere(before, target, plan, used))
    if counter is not None and stats is not None:
        stats.copy_(torch.tensor(counter.row(), dtype=torch.float64))
    elif stats is not None and x.numel() == 0:
        stats.zero_()


def _scale_operands(
    plan: RoundingPlan, scale: float | Tensor, device: torch.device
) -> tuple[float | Tensor | None, float | Tensor | None]:
    if isinstance(scale, Tensor):
        s = scale.to(torch.float32)
        if plan.divisor is not None:  # a uniform grid: its step joins the scale
            s = s * plan.divisor
        return s, s
    if plan.divisor is None:
        return None, None
    if plan.divisor_is_power_of_two or device.type == "cpu":
        return plan.divisor, plan.factor
    # A number as divisor would be turned into its reciprocal on the GPU, which rounds differently.
    s = torch.full((), plan.divisor, dtype=torch.float32, device=device)
    return s, s


def narrow_into(x: Tensor, out: Tensor) -> None:
    """Write ``x`` into the float32 ``out``; float64 is rounded to odd, so that no later tie depends on it."""
    out.copy_(x)
    if x.dtype != torch.float64:
        return
    back = out.double()
    inexact = (back != x).int()
    outward = (back.abs() > x.abs()).int()
    bits = out.view(torch.int32)
    bits.sub_(outward)  # toward zero
    bits.bitwise_or_(inexact)
