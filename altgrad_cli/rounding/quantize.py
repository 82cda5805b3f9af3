"""Rounding a tensor onto a format: ``Q(x) = s * round(x / s)``, x / s and the product in float32.

One implementation for every format (8-bit, BF16, FP16, any ExMy up to 16 bits), every float dtype and every
device. Special values:

    0, -0       keep their sign (a format without -0 gives +0)
    subnormals  round on their own grid; a carry walks into the next binade
    too large   the format's maximum (``overflow="saturate"``), or inf, or nan (``"ieee"``)
    inf         as too large
    nan         stays nan in the carrier, for every format

Nearest rounding breaks ties to the even *code*, which for formats without a mantissa (E7M0: 1.5 -> 2,
3 -> 2) is not the even significand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding.codes import NAN_INDEX, code_histogram, code_index, dequantize, encode
from altgrad_cli.rounding.constants import Overflow, Rounding
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.statistics import STATS
from altgrad_cli.rounding.stochastic import STOCHASTIC_BITS

__all__ = [
    "NAN_INDEX",
    "STATS",
    "STOCHASTIC_BITS",
    "code_histogram",
    "code_index",
    "dequantize",
    "encode",
    "quantize",
    "round_to_grid",
]


def quantize(
    x: Tensor,
    format: FP8Format | str,
    scale: float | Tensor | None = None,
    *,
    rounding: Rounding = "nearest",
    overflow: Overflow = "saturate",
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Q(x) in x's own shape and dtype, with the straight-through gradient: dQ/dx = 1 everywhere.

    Without a ``scale`` it is 1, or for a format with blocks the scales that its name asks for, powers of two
    rounded up where it asks for none; rows lie along the last dimension.
    Rounded once, on the float32 carrier; a dtype narrower than the result (bfloat16 or float16 with a scale
    that is no power of two, or values beyond float16) rounds it to itself.

    ``out``, of x's shape and dtype, receives the result and is returned; it may be x. That costs one pass
    over the data. Without it the result is a new tensor: from 32 MiB on its pages are new to the process,
    which costs about as much again, and they go back to the system with the tensor. No memory is kept between
    calls; without a compiler, torch's operations keep 8 MiB of scratch a thread. As everywhere in torch,
    ``out`` has no gradient. Other arguments, special values and errors as ``round_to_grid``.

    Raises:
        UsageError: an ``out`` of another shape or dtype, or where a gradient is asked for.
    """
    if scale is None:
        format = parse_format(format)
        grid = operand_grid(format, "amax" if format.block.name else "none")
        scale = grid.spread(grid.scales(x), x.shape)
    differentiable = x.requires_grad and torch.is_grad_enabled()
    options: dict[str, Any] = {"rounding": rounding, "overflow": overflow, "generator": generator}
    if out is not None:
        _check_out(x, out, differentiable)
        if out.dtype == torch.float32:
            return round_to_grid(x, format, scale, out=out, **options)
        out.detach().copy_(round_to_grid(x, format, scale, **options))
        return out
    if not differentiable:
        return round_to_grid(x, format, scale, **options).to(x.dtype)
    result: Tensor = _StraightThrough.apply(x, format, scale, rounding, overflow, generator)  # type: ignore[no-untyped-call]
    return result


def _check_out(x: Tensor, out: Tensor, differentiable: bool) -> None:
    if (out.dtype, out.shape) != (x.dtype, x.shape):
        raise UsageError(
            f"out is {out.dtype} of shape {tuple(out.shape)}", allowed=f"{x.dtype} of shape {tuple(x.shape)}"
        )
    if differentiable or (out.requires_grad and torch.is_grad_enabled()):
        raise UsageError(
            "a tensor that is written into has no gradient",
            where="out",
            hint="leave out away, or round under torch.no_grad()",
        )


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        format: FP8Format | str,
        scale: float | Tensor,
        rounding: Rounding,
        overflow: Overflow,
        generator: torch.Generator | None,
    ) -> Tensor:
        q = round_to_grid(x, format, scale, rounding=rounding, overflow=overflow, generator=generator)
        return q.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        return grads[0], None, None, None, None, None
