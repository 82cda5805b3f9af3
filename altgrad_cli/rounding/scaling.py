"""From largest magnitudes to scales, as tensors; and the magnitudes of the last steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.scale import EMPTY_SCALE, SMALLEST_SCALE


def checked_scale(scale: float | Tensor, shape: Sequence[int]) -> float | Tensor:
    """The scale of a tensor of this shape: a number, or a tensor that is left where it is.

    A number where there is one on the host; a 0-d tensor where it lives on another device; else one of as
    many dimensions as the tensor, which broadcasts with it.

    Raises:
        UsageError: not a number, or a shape that does not broadcast so.
    """
    if not isinstance(scale, Tensor):
        try:
            return float(scale)
        except (TypeError, ValueError):
            given = f"shape {tuple(scale.shape)}" if hasattr(scale, "shape") else f"{scale!r}"
            raise _misfit(given, shape) from None
    if scale.numel() == 1:
        return float(scale) if scale.device.type == "cpu" else scale.reshape(())
    sizes = zip(scale.shape, shape, strict=False)
    if scale.dim() != len(shape) or not all(mine in (1, size) for mine, size in sizes):
        raise _misfit(f"shape {tuple(scale.shape)}", shape)
    if scale.device.type == "cpu" and not bool(((scale > 0) & scale.float().isfinite()).all()):
        raise UsageError("a scale that cannot divide a float32", allowed="positive and finite in float32")
    return scale


def _misfit(given: str, shape: Sequence[int]) -> UsageError:
    return UsageError(
        f"a scale of {given} for a tensor of shape {tuple(shape)}",
        allowed="a number, a tensor of one value, or of as many dimensions, each 1 or the tensor's",
    )


def finite_part(x: Tensor) -> Tensor:
    """``x`` with 0 where it is not finite."""
    return torch.where(torch.isfinite(x), x, 0.0)


@torch.no_grad()
def scales_of_amax(amax: Tensor, maximum: float, *, power_of_two: bool, margin: float = 1.0) -> Tensor:
    """``compute_scale`` of each amax, float64, rounded up to a power of two if asked, times ``margin``.

    Args:
        amax: float64, any shape, finite.
        maximum: the largest value of the format.
    """
    scale = torch.where(amax == 0, EMPTY_SCALE, (amax / maximum).clamp_min(SMALLEST_SCALE))
    if power_of_two:
        mantissa, exponent = torch.frexp(scale)
        exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
        scale = torch.ldexp(torch.ones_like(scale), exponent)
    return scale * margin


_TORCH_TYPES = {"E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "FLOAT32": torch.float32}


@torch.no_grad()
def named_scales(amax: Tensor, format: FP8Format) -> Tensor:
    """The scales of blocks with these amax, in the scale format that ``format`` names: float64, all float32.

    ``formats.reference.scale_exact`` for every block of one tensor at once, bit for bit.

    Args:
        amax: float64, any shape, finite.
    """
    stored, maximum = format.block.scale, format.max_representable_value
    assert stored is not None
    if format.block.rounding is not None:
        exponent = _e8m0_exponent(amax, format).clamp(-127, 127)
        exponent = torch.where(amax == 0, -127, exponent)
        return ((exponent + 1023) << 52).view(torch.float64)  # 2^exponent, without arithmetic
    amax, over = amax.float(), torch.ones((), device=amax.device)
    divisor = over * maximum  # a tensor: a number would be turned into its reciprocal on some devices
    if format.block.two_levels:
        largest = amax.max() if amax.numel() else torch.zeros_like(over)
        over = torch.where(
            largest == 0, over, (largest / (divisor * stored.largest)).clamp_min(SMALLEST_SCALE)
        )
    scale = (amax / divisor / over).clamp(stored.smallest, stored.largest)
    return (scale.to(_TORCH_TYPES[stored.name]).float() * over).double()


def _e8m0_exponent(amax: Tensor, format: FP8Format) -> Tensor:
    maximum, way = format.max_representable_value, format.block.rounding
    bits = (amax / maximum if way == "rceil" else amax).view(torch.int64)
    exponent, fraction = (bits >> 52) - 1023, bits & ((1 << 52) - 1)  # of positive float64, none subnormal
    carried = 1 << 52  # the fraction from which on the exponent goes up
    if way in ("ceil", "rceil"):
        carried = 1
    elif way == "even":
        carried -= int(format.gap(maximum) / 2.0 ** (format.emax + 1) * 2**52)
    return exponent + (fraction >= carried).long() - (0 if way == "rceil" else format.emax)


@torch.no_grad()
def scale_on_device(x: Tensor, format: FP8Format, *, power_of_two: bool, margin: float) -> Tensor:
    """The scale by the largest finite |x|, as a 0-d float32 tensor beside it; waits for nothing."""
    amax = finite_part(x.detach()).abs().amax().double()
    maximum = format.max_representable_value
    return scales_of_amax(amax, maximum, power_of_two=power_of_two, margin=margin).float()


class AmaxHistory:
    """The largest magnitudes of the last ``length`` tensors, for delayed scaling.

    A non-finite amax never enters: one bad step must not decide the scale of the next sixteen.
    """

    def __init__(self, length: int = 16) -> None:
        if length < 1:
            raise UsageError(f"an amax history of {length} entries", allowed="at least 1")
        self.length = length
        self._values: deque[float] = deque(maxlen=length)

    def update(self, value: float | Tensor) -> None:
        """Append an amax, or that of a tensor; a non-finite one is left out."""
        if isinstance(value, Tensor):
            value = float(value.detach().abs().max()) if value.numel() else 0.0
        if math.isfinite(value):
            self._values.append(abs(float(value)))

    def get_amax(self) -> float:
        """The largest entry; 0.0 while the history is empty."""
        return max(self._values, default=0.0)

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

    @property
    def values(self) -> list[float]:
        """The entries, oldest first: plain numbers, for a checkpoint. Assigning replaces them."""
        return list(self._values)

    @values.setter
    def values(self, values: list[float]) -> None:
        self._values = deque(values, maxlen=self.length)
