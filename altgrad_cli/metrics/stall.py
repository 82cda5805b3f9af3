"""The study's stall detector, literally: would the SGD step lr * grad move the rounded weight?

An estimate kept as an interface. Training measures the optimizer's true update instead
(``diagnostics.update``), for AdamW's step is not lr * grad.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.spec import ratio
from altgrad_cli.rounding.quantize import round_to_grid

SMALLEST_GRADIENT = 1e-10
"""Below this magnitude the study counts a gradient as absent."""


@torch.no_grad()
def detect_bit_stall(
    weight: Tensor, grad: Tensor, lr: float, format: FP8Format, scale: float | Tensor = 1.0
) -> tuple[int, int]:
    """Count the weights whose SGD step -lr * grad is lost in rounding.

    Args:
        weight: weights, any float type and shape; on the grid or not.
        grad: their gradients, same shape. |grad| <= 1e-10 is no gradient; NaN is one.
        lr: learning rate.
        format: the grid.
        scale: its scale s, Q(x) = s * round(x / s).

    Returns:
        (stalled, total): weights with a gradient and Q(w - lr * grad) = Q(w), and all with a gradient.
        A NaN equals nothing, so it never counts as stalled.
    """
    w, g = weight.float(), grad.float()
    has_gradient = ~(g.abs() <= SMALLEST_GRADIENT)
    unmoved = round_to_grid(w, format, scale) == round_to_grid(w - lr * g, format, scale)
    return int((has_gradient & unmoved).sum()), int(has_gradient.sum())


class BitStallDetector:
    """``detect_bit_stall`` summed over calls."""

    def __init__(self) -> None:
        self.reset()

    def update(
        self, weight: Tensor, grad: Tensor, lr: float, format: FP8Format, scale: float | Tensor = 1.0
    ) -> None:
        """Count one step's weights in."""
        stalled, total = detect_bit_stall(weight, grad, lr, format, scale)
        self.stall_count += stalled
        self.total_count += total
        self.step_count += 1

    def get_stall_rate(self) -> float | None:
        """Stalled over total; None while nothing was counted."""
        return ratio(self.stall_count, self.total_count)

    def get_stats(self) -> dict[str, Any]:
        """``stall_rate``, ``stall_count``, ``total_count`` and ``steps``."""
        return {
            "stall_rate": self.get_stall_rate(),
            "stall_count": self.stall_count,
            "total_count": self.total_count,
            "steps": self.step_count,
        }

    def reset(self) -> None:
        """Forget everything counted."""
        self.stall_count = 0
        self.total_count = 0
        self.step_count = 0
