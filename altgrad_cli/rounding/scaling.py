"""From largest magnitudes to scales, as tensors; and the magnitudes of the last steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.scale import EMPTY_SCALE, SMALLEST_SCALE
from altgrad_cli.rounding.constants import plan_rounding
from altgrad_cli.rounding.native.call import round_flat


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
    if scale.device.type == "cpu" and scale.numel():
        low, high = (bound.float().item() for bound in scale.aminmax())  # both nan where one is
        if low > 0 and high < math.inf:
            return scale
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


@torch.no_grad()
def named_scales(amax: Tensor, format: FP8Format, margin: float = 1.0) -> Tensor:
    """The scales of blocks with these amax, in the scale format that ``format`` names: float64, all float32.

    ``formats.reference.scale_exact`` of each amax times ``margin``, for every block of one tensor at once,
    bit for bit. In place where possible: with 16 values a block, fresh memory takes longer than arithmetic.

    Args:
        amax: float32 or float64, any shape, finite.
    """
    amax, stored = amax if margin == 1.0 else amax.double() * margin, format.block.scale
    assert stored is not None
    if format.block.rounding is not None:
        return _e8m0_scales(amax.double(), format)
    amax = amax.float()
    # By a tensor: a number would be turned into its reciprocal on some devices.
    divisor = torch.full((), format.max_representable_value, device=amax.device)
    over = torch.ones_like(divisor)
    if format.block.two_levels and amax.numel():
        largest = amax.max()
        least = (largest / (divisor * stored.largest)).clamp_min(SMALLEST_SCALE)
        over = torch.where(largest == 0, over, least)
    scale = amax / divisor
    if format.block.two_levels:
        scale.div_(over)
    scale.clamp_(stored.smallest, stored.largest)
    if stored.name != "FLOAT32":
        plan = plan_rounding(parse_format(stored.name), 1.0, "saturate")
        round_flat(scale.view(-1), scale.view(-1), plan, 1.0, None, None)
    if format.block.two_levels:
        scale.mul_(over)
    return scale.double()


def _e8m0_scales(amax: Tensor, format: FP8Format) -> Tensor:
    """2^floor(log2(amax) + carry), by the bits of float64: adding to a fraction carries into the exponent."""
    maximum, way = format.max_representable_value, format.block.rounding
    carry = (1 << 52) - 1 if way in ("ceil", "rceil") else 0
    if way == "even":
        carry = int(format.gap(maximum) / 2.0 ** (format.emax + 1) * 2**52)
    lowered = 0 if way == "rceil" else format.emax
    bits = (amax / maximum if way == "rceil" else amax).view(torch.int64) + carry
    exponent = bits.bitwise_right_shift_(52).sub_(1023 + lowered).clamp_(-127, 127)  # 0: far below
    return exponent.add_(1023).bitwise_left_shift_(52).view(torch.float64)


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
