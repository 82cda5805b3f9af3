"""The scale of a tensor: its own, that of its history, that of stored weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.scale import (
    EMPTY_SCALE,
    SMALLEST_SCALE,
    compute_scale,
    round_up_to_power_of_two,
    stored_scale,
)

STORED_SLACK = 4.0
"""How far below the maximum the amax of stored weights must have fallen before their scale is lowered."""


def one_scale(scale: float | Tensor, shape: Sequence[int]) -> float | Tensor:
    """The scale of a whole tensor of this shape: a number, or a 0-d tensor where it lives on another device.

    Raises:
        UsageError: not a number, or more than one.
    """
    if not isinstance(scale, Tensor):
        try:
            return float(scale)
        except (TypeError, ValueError):
            given = f"shape {tuple(scale.shape)}" if hasattr(scale, "shape") else f"{scale!r}"
            raise _not_one_scale(given, shape) from None
    if scale.numel() != 1:
        raise _not_one_scale(f"shape {tuple(scale.shape)}", shape)
    return float(scale) if scale.device.type == "cpu" else scale.reshape(())


def _not_one_scale(given: str, shape: Sequence[int]) -> UsageError:
    return UsageError(
        f"a scale of {given} for a tensor of shape {tuple(shape)}",
        allowed="one scale for the whole tensor: a number, or a tensor of one value",
    )


def scale_for(
    amax: float | Tensor, format: FP8Format, *, power_of_two: bool = True, margin: float = 1.0
) -> float:
    """The scale of an operand with this amax: ``compute_scale``, rounded up if asked, times ``margin``."""
    scale = compute_scale(amax, format)
    return (round_up_to_power_of_two(scale) if power_of_two else scale) * margin


def current_scale(
    x: Tensor, format: FP8Format, *, power_of_two: bool = True, margin: float = 1.0
) -> float | Tensor:
    """``scale_for`` of the largest finite |x| of this tensor itself.

    A number on the CPU; elsewhere a 0-d float32 tensor, so that nothing waits for the device.
    """
    if x.device.type == "cpu":
        return scale_for(_finite_amax(x), format, power_of_two=power_of_two, margin=margin)
    return scale_on_device(x, format, power_of_two=power_of_two, margin=margin)


@torch.no_grad()
def scale_on_device(x: Tensor, format: FP8Format, *, power_of_two: bool, margin: float) -> Tensor:
    """``current_scale`` of a tensor that is not empty, as a 0-d float32 tensor beside it."""
    magnitude = x.detach().abs()
    amax = torch.where(torch.isfinite(magnitude), magnitude, 0.0).amax().double()
    scale = (amax / format.max_representable_value).clamp_min(SMALLEST_SCALE)
    scale = torch.where(amax == 0, EMPTY_SCALE, scale)
    if power_of_two:
        mantissa, exponent = torch.frexp(scale)
        exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
        scale = torch.ldexp(torch.ones_like(scale), exponent)
    return (scale * margin).float()


def _finite_amax(x: Tensor) -> float:
    if x.numel() == 0:
        return 0.0
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    amax = max(-low, high)
    if math.isfinite(amax):
        return amax
    finite = x.detach()[torch.isfinite(x)]
    return float(finite.abs().max()) if finite.numel() else 0.0


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


def stored_weight_scale(amax: float, format: FP8Format, current: float | None) -> float:
    """The power-of-two scale of stored weights, with hysteresis, since each change re-encodes them.

    A fresh one is ``stored_scale``. ``current`` stays unless the weights overflow
    (amax / current >= format.overflow_threshold) or amax < max * current / 4, and where amax is not finite.
    E7M0, whose range needs no help, has 1.

    Raises:
        UsageError: no current scale and an amax that is not finite.
    """
    if current is not None:
        if not math.isfinite(amax) or amax == 0:
            return current
        overflows = amax >= format.overflow_threshold * current
        if not overflows and amax >= format.max_representable_value * current / STORED_SLACK:
            return current
    return stored_scale(format, amax)
