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
) -> Tensor:
    """Q(x) in x's own shape and dtype, with the straight-through gradient: dQ/dx = 1 everywhere.

    Without a ``scale`` it is 1, or for a format with blocks the scales that its name asks for, powers of two
    rounded up where it asks for none; rows lie along the last dimension.
    Rounded once, on the float32 carrier; a dtype narrower than the result (bfloat16 or float16 with a scale
    that is no power of two, or values beyond float16) rounds it to itself. Arguments, special values and
    errors as ``round_to_grid``.
    """
    if scale is None:
        format = parse_format(format)
        grid = operand_grid(format, "amax" if format.block.name else "none")
        scale = grid.spread(grid.scales(x), x.shape)
    result: Tensor = _StraightThrough.apply(x, format, scale, rounding, overflow, generator)  # type: ignore[no-untyped-call]
    return result


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
