"""The stall to expect before an update is made: of Adam, predicted, and of SGD, by the study's detector.

A weight stalls when its update stays within the cell of numbers that round to its code. The cell is not
symmetric: below a power of two the grid is finer, and beyond the maximum it has no end.
The study's ``detect_bit_stall`` asks literally whether the SGD step lr * grad would move the rounded weight.
It is kept as an interface; training measures the optimizer's true update instead (``metrics.update``), for
AdamW's step is not lr * grad.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import get_args

import torch
from torch import Tensor

from altgrad_cli.errors import check_choice
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.analysis import adam_update_deviation
from altgrad_cli.metrics.spec import MetricSpec, ratio
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.rounding.quantize import code_index, round_to_grid
from altgrad_cli.rounding.scaling import checked_scale

SMALLEST_GRADIENT = 1e-10
"""Below this magnitude the study counts a gradient as absent."""


@lru_cache(maxsize=32)
def _upper_edges(format: FP8Format) -> Tensor:
    """Edge between code index c and c + 1 at position c + max_code + 1, float64; -inf first and inf last."""
    positive = [format.to_real(code) for code in range(format.max_code + 1)]
    values = torch.tensor([-v for v in reversed(positive[1:])] + positive, dtype=torch.float64)
    edges = (values[1:] + values[:-1]) / 2
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    return torch.cat((-infinity, edges, infinity))


@torch.no_grad()
def room_to_move(
    weights: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """How far each weight can go up and down before its code changes (saturating): (up, down).

    For a weight on the grid these are the directional half gaps. Both float64, >= 0, in weight units, same
    shape; inf where the code is the last one. NaN for NaN weights.
    """
    w, format = weights.float(), parse_format(format)
    edges = _upper_edges(format).to(w.device)
    s = checked_scale(scale, w.shape)
    index = code_index(torch.nan_to_num(w, nan=0.0), format, s).long() + format.max_code
    up = edges[index + 1] * s - w.double()
    down = w.double() - edges[index] * s
    return up, down


@torch.no_grad()
def predicted_stall_rate(
    weights: Tensor, format: FP8Format | str, scale: float | Tensor, learning_rate: float, beta1: float = 0.9
) -> Tensor:
    """Expected bit-stall rate under dw ~ N(0, ``adam_update_deviation``^2); 0-d float64, NaN for NaN."""
    up, down = room_to_move(weights, format, scale)
    deviation = adam_update_deviation(learning_rate, beta1)
    inside: Tensor = torch.special.ndtr(up / deviation) - torch.special.ndtr(-down / deviation)
    return inside.mean()


@torch.no_grad()
def first_step_stall_rate(
    weights: Tensor,
    format: FP8Format | str,
    scale: float | Tensor,
    learning_rate: float,
    gradient: Tensor | None = None,
    *,
    rounding: Rounding = "nearest",
) -> Tensor:
    """Expected bit-stall rate of Adam's first step, where |dw| = lr; 0-d float64 tensor.

    Args:
        weights: weights on the grid.
        format: the grid.
        scale: its scale.
        learning_rate: that of the first step (with warm-up not the peak).
        gradient: its sign gives the direction, and weights with gradient 0 take no part; None takes both
            directions as equally likely.
        rounding: under ``stochastic`` a weight stays with probability 1 - lr / gap.

    A weight pushed exactly onto the edge of its cell stays where its code is even. NaN weights give NaN.
    """
    check_choice("rounding", rounding, get_args(Rounding))
    up, down = room_to_move(weights, format, scale)
    if rounding == "nearest":
        even = code_index(torch.nan_to_num(weights.float(), nan=0.0), format, scale) % 2 == 0
        stays_up, stays_down = (
            torch.where(
                room.isnan(), torch.nan, ((room > learning_rate) | ((room == learning_rate) & even)).double()
            )
            for room in (up, down)
        )
    else:
        stays_up, stays_down = (1 - (learning_rate / (2 * room)).clamp(max=1) for room in (up, down))
    if gradient is None:
        return ((stays_up + stays_down) / 2).mean()
    stays = torch.where(gradient < 0, stays_up, stays_down)[gradient != 0]
    return stays.mean()


@torch.no_grad()
def detect_bit_stall(
    weight: Tensor, grad: Tensor, lr: float, format: FP8Format | str, scale: float | Tensor = 1.0
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
        self, weight: Tensor, grad: Tensor, lr: float, format: FP8Format | str, scale: float | Tensor = 1.0
    ) -> None:
        """Count one step's weights in."""
        stalled, total = detect_bit_stall(weight, grad, lr, format, scale)
        self.stall_count += stalled
        self.total_count += total
        self.step_count += 1

    def get_stall_rate(self) -> float | None:
        """Stalled over total; None while nothing was counted."""
        return ratio(self.stall_count, self.total_count)

    def get_stats(self) -> dict[str, float | None]:
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


PREDICTION_METRICS = (
    MetricSpec(
        "predicted_stall_rate",
        "expected bit-stall rate of the current weights when dw is normal with standard deviation "
        "lr sqrt((1 - b1) / (1 + b1)), as Adam's steps are in the long run",
        heading="predicted stall",
        pooling="weights",
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "first_step_stall_rate",
        "expected bit-stall rate of Adam's first step, where |dw| = lr",
        heading="predicted stall, first step",
        pooling="weights",
        bad="high",
    ),
)
