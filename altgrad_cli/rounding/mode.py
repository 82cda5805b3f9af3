"""``round_to_grid``: check the arguments, round. No autograd here."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError, check_choice
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding.constants import Overflow, Rounding, plan_rounding
from altgrad_cli.rounding.native.call import round_blocks, round_flat
from altgrad_cli.rounding.scaling import checked_scale
from altgrad_cli.rounding.scratch import result_like
from altgrad_cli.rounding.statistics import STATS, Counters
from altgrad_cli.rounding.stochastic import Key, advanced, draw_key

_ROUNDINGS, _COUNTERS = get_args(Rounding), get_args(Counters)


def round_to_grid(
    x: Tensor,
    format: FP8Format | str,
    scale: float | Tensor = 1.0,
    *,
    rounding: Rounding = "nearest",
    overflow: Overflow = "saturate",
    generator: torch.Generator | None = None,
    bits: Tensor | None = None,
    first: int = 0,
    out: Tensor | None = None,
    stats: Tensor | None = None,
    counters: Counters = "all",
) -> Tensor:
    """Q(x) on the float32 carrier, without autograd.

    Args:
        x: any shape, any float dtype. float64 is narrowed to float32 with its discarded digits kept as a
            sticky bit, so that the narrowing never makes or breaks a tie: it too is rounded once.
        format: the format or its name.
        scale: s > 0, a number or a tensor of one (which is not read back from a device), or a tensor that
            broadcasts with x, dimension by dimension: of each value the scale of its block.
        rounding: ``"nearest"`` (ties to the even code) or ``"stochastic"``.
        overflow: ``"saturate"`` or ``"ieee"``.
        generator: the random stream of stochastic rounding; the default stream where None.
        bits: the random bits themselves, integers in [0, 2^STOCHASTIC_BITS) of x's shape, instead.
        first: flat index of x's first value in the tensor of which it is a part, which decides the bits that
            the generator gives it.
        out: float32, x's shape, receives the result; may be x.
        stats: 1-D float64 of ``len(STATS)`` on x's device, receives the counts without a wait for it.
        counters: which of them; the others are NaN.

    Raises:
        FormatError: ``overflow="ieee"`` with a format that has neither inf nor nan.
        UsageError: a scale that is not positive and finite in float32; a wrong dtype or shape; an option
            that is not known.
    """
    format = parse_format(format)
    check_choice("rounding", rounding, _ROUNDINGS)
    check_choice("counters", counters, _COUNTERS)
    _check_tensors(x, out, stats, bits)
    scale = checked_scale(scale, x.shape)
    known = None  # of one on a device
    if not isinstance(scale, Tensor) or scale.dim():
        known = 1.0 if isinstance(scale, Tensor) else scale
    plan = plan_rounding(format, known, overflow)
    random: Key | Tensor | None = None
    if rounding == "stochastic":
        random = advanced(draw_key(generator), first) if bits is None else bits.reshape(-1)
    x = x.detach().contiguous()
    result = result_like(x) if out is None else out.detach()
    target = result if result.is_contiguous() else result_like(x)
    if isinstance(scale, Tensor) and scale.dim():
        round_blocks(x, target, scale.detach(), plan, random, stats, counters)
    else:
        round_flat(x, target, plan, scale, random, stats, counters)
    if target is not result:
        result.copy_(target)
    return result if out is None else out


def _check_tensors(x: Tensor, out: Tensor | None, stats: Tensor | None, bits: Tensor | None) -> None:
    if not x.is_floating_point():
        raise UsageError(f"only float tensors can be rounded, not {x.dtype}")
    if out is not None and (out.dtype != torch.float32 or out.shape != x.shape):
        raise UsageError(
            f"out is {out.dtype} of shape {tuple(out.shape)}", allowed=f"float32 of shape {tuple(x.shape)}"
        )
    if bits is not None and bits.numel() != x.numel():
        raise UsageError(f"{bits.numel()} random bits for {x.numel()} values", allowed="one for each")
    if stats is not None and (stats.dtype != torch.float64 or stats.shape != (len(STATS),)):
        raise UsageError(
            f"stats is {stats.dtype} of shape {tuple(stats.shape)}", allowed=f"float64 ({len(STATS)},)"
        )
