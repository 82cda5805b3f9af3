"""Between values and codes: packing, unpacking, and the code index that measures movement on the grid.

A code is read from the *unscaled* grid value round(x / s). Reading it from s * round(x / s) would be wrong:
dividing the product by s does not always give the grid value back.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.errors import FormatError, UsageError
from altgrad_cli.formats import FP8Format
from altgrad_cli.quantization.eager import narrow_into
from altgrad_cli.quantization.plan import (
    FLOAT32_EMIN,
    FLOAT32_MANTISSA,
    FLOAT64_MANTISSA,
    Overflow,
    check_scale,
)
from altgrad_cli.quantization.rounding import round_to_grid

NAN_INDEX: int = torch.iinfo(torch.int32).min
"""The code index of nan: below that of every number."""


def encode(
    x: Tensor, format: FP8Format, scale: float | Tensor = 1.0, *, overflow: Overflow = "saturate"
) -> Tensor:
    """The codes of round(x / s), nearest with ties to the even code: uint8 up to 8 bits, int32 above.

    Raises:
        FormatError: x holds a nan and the format has no code for it (the carrier keeps it, codes cannot).
    """
    grid = _grid_values(x, format, scale, overflow)
    nan = torch.isnan(grid)
    if format.nan_code is None and bool(nan.any()):
        raise FormatError(
            f"{format.name} has no code for nan, and {int(nan.sum())} of {nan.numel()} values are nan",
            where=format.describe(),
            hint="round_to_grid keeps nan in the float32 carrier",
        )
    return _codes(grid, nan, format).to(torch.uint8 if format.width <= 8 else torch.int32)


def dequantize(codes: Tensor, format: FP8Format, scale: float | Tensor = 1.0) -> Tensor:
    """s * value(code) in float32 for integer ``codes`` of any shape.

    Raises:
        UsageError: codes that are not integers.
        FormatError: a code outside the format's range.
    """
    if codes.is_floating_point() or codes.is_complex():
        raise UsageError(f"codes are integers, not {codes.dtype}")
    index = codes.long()
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < format.code_count):
        raise FormatError(f"not a code of {format.name}", allowed=f"0 to {format.code_count - 1}")
    s = scale if isinstance(scale, Tensor) else check_scale(float(scale))
    return _value_table(format, codes.device)[index] * s


def code_index(x: Tensor, format: FP8Format, scale: float | Tensor = 1.0) -> Tensor:
    """The signed monotone code index c of round(x / s), int32: 0 for both zeros, one step a grid point.

    Saturates at plus or minus ``format.max_code``; nan is ``NAN_INDEX``.
    """
    grid = _grid_values(x, format, scale, "saturate")
    magnitude = _magnitude_codes(grid, format)
    signed = torch.where(grid < 0, -magnitude, magnitude)
    return torch.where(torch.isnan(grid), NAN_INDEX, signed)


def code_histogram(x: Tensor, format: FP8Format, scale: float | Tensor = 1.0) -> Tensor:
    """How many values have each code: int64 (code_count + 1,), the last bin for nan."""
    grid = _grid_values(x, format, scale, "saturate").flatten()
    nan = torch.isnan(grid)
    codes = torch.where(nan, format.code_count, _codes(grid, nan, format))
    return torch.bincount(codes, minlength=format.code_count + 1)


def _grid_values(x: Tensor, format: FP8Format, scale: float | Tensor, overflow: Overflow) -> Tensor:
    """round(x / s) in float32, unscaled."""
    with torch.no_grad():
        x = x.detach()
        scaled = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        narrow_into(x, scaled)
        if isinstance(scale, Tensor):
            scaled.div_(scale.to(torch.float32))
        elif scale != 1:
            # A number as divisor would be turned into its reciprocal on some devices.
            scaled.div_(torch.full((), check_scale(float(scale)), dtype=torch.float32, device=x.device))
        return round_to_grid(scaled, format, 1.0, overflow=overflow, out=scaled)


def _codes(grid: Tensor, nan: Tensor, format: FP8Format) -> Tensor:
    magnitude = torch.where(nan, 0, _magnitude_codes(grid, format))
    if format.has_inf and format.inf_code is not None:
        magnitude = torch.where(torch.isinf(grid), format.inf_code, magnitude)
    negative = torch.signbit(grid)
    if not format.negative_zero:
        negative = negative & (magnitude != 0)
    codes = torch.where(negative, magnitude + format.sign_mask, magnitude)
    return codes if format.nan_code is None else torch.where(nan, format.nan_code, codes)


def _magnitude_codes(grid: Tensor, format: FP8Format) -> Tensor:
    """The code of |grid|, int32, for values that are on the grid (finite; garbage elsewhere)."""
    magnitude = grid.abs()
    m = format.mantissa_bits
    if format.is_uniform:
        return (magnitude * 2.0**-format.smallest_exponent).int()
    # Normals: exponent and mantissa field lie side by side in the float, as they do in the code.
    # Subnormals are counted in steps. Where float32 would be subnormal itself, float64 is not.
    if format.smallest_exponent < FLOAT32_EMIN:
        normal = (magnitude.double().view(torch.int64) >> (FLOAT64_MANTISSA - m)) - (
            (format.emin + 1022) << m
        )
        steps = magnitude.double() * 2.0**-format.smallest_exponent
    else:
        normal = (magnitude.view(torch.int32) >> (FLOAT32_MANTISSA - m)) - ((format.emin + 126) << m)
        steps = magnitude * 2.0**-format.smallest_exponent
    return torch.where(magnitude < 2.0**format.emin, steps.int(), normal.int())


@lru_cache(maxsize=64)
def _value_table(format: FP8Format, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(format.values(), dtype=torch.float32, device=device)
