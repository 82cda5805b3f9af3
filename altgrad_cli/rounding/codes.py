"""Between values and codes: packing, unpacking, and the code index that measures movement on the grid.

A code is read from the *unscaled* grid value round(x / s). Reading it from s * round(x / s) would be wrong:
dividing the product by s does not always give the grid value back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.errors import FormatError, UsageError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding.constants import (
    FLOAT32_EMIN,
    FLOAT32_MANTISSA,
    FLOAT64_MANTISSA,
    Carrier,
    Overflow,
    check_scale,
    plan_rounding,
)
from altgrad_cli.rounding.eager import as_carrier
from altgrad_cli.rounding.native.call import round_flat
from altgrad_cli.rounding.scaling import checked_scale
from altgrad_cli.rounding.scratch import SLICE

NAN_INDEX: int = torch.iinfo(torch.int32).min
"""The code index of nan: below that of every number."""


@torch.no_grad()
def encode(
    x: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0, *, overflow: Overflow = "saturate"
) -> Tensor:
    """The codes of round(x / s), nearest with ties to the even code: uint8 up to 8 bits, int32 above.

    Raises:
        FormatError: x holds a nan and the format has no code for it (the carrier keeps it, codes cannot).
    """
    format = parse_format(format)
    codes = torch.empty(x.shape, dtype=torch.uint8 if format.width <= 8 else torch.int32, device=x.device)
    for grid, target in _slices(x, format, scale, overflow, codes):
        target.copy_(_codes(grid, format))
        if _may_hold_specials(grid):
            _encode_specials(grid, target, format)
    return codes


def _encode_specials(grid: Tensor, codes: Tensor, format: FP8Format) -> None:
    nan = torch.isnan(grid)
    if format.nan_code is not None:
        codes.masked_fill_(nan, format.nan_code)
    elif bool(nan.any()):
        raise FormatError(
            f"{format.name} has no code for nan, and {int(nan.sum())} values or more are nan",
            where=format.describe(),
            hint="round_to_grid keeps nan in the float32 carrier",
        )
    if format.inf_code is not None:
        codes.masked_fill_(grid == math.inf, format.inf_code)
        codes.masked_fill_(grid == -math.inf, format.inf_code | format.sign_mask)


def dequantize(codes: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0) -> Tensor:
    """s * value(code) in float32 for integer ``codes`` of any shape.

    Raises:
        UsageError: codes that are not integers; a scale that is not one positive and finite float32.
        FormatError: a code outside the format's range.
    """
    format = parse_format(format)
    if codes.is_floating_point() or codes.is_complex():
        raise UsageError(f"codes are integers, not {codes.dtype}")
    index = codes.long()
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < format.code_count):
        raise FormatError(f"not a code of {format.name}", allowed=f"0 to {format.code_count - 1}")
    scale = checked_scale(scale, codes.shape)
    s = scale.float() if isinstance(scale, Tensor) else check_scale(scale)
    return _value_table(format, codes.device)[index] * s


@torch.no_grad()
def code_index(x: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0) -> Tensor:
    """The signed monotone code index c of round(x / s), int32: 0 for both zeros, one step a grid point.

    Saturates at plus or minus ``format.max_code``; nan is ``NAN_INDEX``.
    """
    format = parse_format(format)
    index = torch.empty(x.shape, dtype=torch.int32, device=x.device)
    for grid, target in _slices(x, format, scale, "saturate", index):
        magnitude, negative = _magnitude_and_sign(grid, format)
        # Two's complement: -magnitude where negative.
        torch.sub(magnitude.bitwise_xor_(negative), negative, out=target)
        if _may_hold_specials(grid):
            target.masked_fill_(torch.isnan(grid), NAN_INDEX)
    return index


@torch.no_grad()
def code_histogram(x: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0) -> Tensor:
    """How many values have each code: int64 (code_count + 1,), the last bin for nan."""
    format = parse_format(format)
    counts = torch.zeros(format.code_count + 1, dtype=torch.int64, device=x.device)
    for grid, _ in _slices(x, format, scale, "saturate", None):
        if _may_hold_specials(grid):
            nan = torch.isnan(grid)
            counts[-1] += nan.sum()
            grid = grid[~nan]
        codes = _codes(grid, format)
        counts[:-1] += torch.bincount(
            codes.to(torch.uint8) if format.width <= 8 else codes, minlength=format.code_count
        )
    return counts


def _slices(
    x: Tensor, format: FP8Format, scale: float | Tensor, overflow: Overflow, out: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Slice by slice: the grid values round(x / s), flat, and where the result for them goes.

    The values are float32 and unscaled; those of a uniform grid are in units of its step.
    """
    scale = checked_scale(scale, x.shape)
    if isinstance(scale, Tensor) and scale.dim():  # a scale a block
        x, scale = as_carrier(x.detach()) / scale.float(), 1.0
    plan = plan_rounding(format, None if isinstance(scale, Tensor) else scale, overflow)
    flat = x.detach().contiguous().view(-1)
    targets = flat if out is None else out.view(-1)
    size = SLICE if x.device.type == "cpu" else max(x.numel(), 1)
    for part, target in zip(torch.split(flat, size), torch.split(targets, size), strict=True):
        grid = torch.empty(part.shape, dtype=torch.float32, device=x.device)
        round_flat(part, grid, plan, scale, None, None, rescale=False)
        if plan.carrier is not Carrier.INTEGERS:
            if plan.divisor is None and plan.scale != 1:  # a folded power of two: the division is exact
                grid.mul_(1 / plan.scale)
            if format.is_uniform:
                grid.mul_(2.0**-format.smallest_exponent)
        yield grid, target


def _may_hold_specials(grid: Tensor) -> bool:
    """Whether some value may be inf or nan; True off the CPU, rather than wait for the device."""
    return grid.device.type != "cpu" or not math.isfinite(grid.sum().item())


def _codes(grid: Tensor, format: FP8Format) -> Tensor:
    """The codes of finite values, int32 (anything within range for the others)."""
    magnitude, negative = _magnitude_and_sign(grid, format)
    return magnitude.bitwise_or_(negative.bitwise_and_(format.sign_mask))


def _magnitude_and_sign(grid: Tensor, format: FP8Format) -> tuple[Tensor, Tensor]:
    """The code without its sign, int32, and -1 where the sign bit is set, else 0."""
    negative = torch.bitwise_right_shift(grid.view(torch.int32), 31)
    if format.is_uniform:
        return grid.abs().to(torch.int32), negative
    m = format.mantissa_bits
    # Exponent and mantissa field lie side by side in the float, as they do in the code; once the smallest
    # normal is moved onto the carrier's smallest normal, its subnormals are the format's too.
    if format.emin >= FLOAT32_EMIN:
        moved = _times_power_of_two(grid, FLOAT32_EMIN - format.emin).view(torch.int32)
        fields = torch.bitwise_right_shift(moved, FLOAT32_MANTISSA - m)
    else:
        moved = torch.ldexp(grid.double(), torch.tensor(-1022 - format.emin)).view(torch.int64)
        fields = torch.bitwise_right_shift(moved, FLOAT64_MANTISSA - m).to(torch.int32)
    return fields.bitwise_and_(format.sign_mask - 1), negative


def _times_power_of_two(x: Tensor, exponent: int) -> Tensor:
    first = max(exponent, FLOAT32_EMIN)
    scaled = x * 2.0**first
    return scaled if first == exponent else scaled.mul_(2.0 ** (exponent - first))


@lru_cache(maxsize=64)
def _value_table(format: FP8Format, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(format.values(), dtype=torch.float32, device=device)
