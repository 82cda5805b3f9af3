"""The heavy measures of one layer, taken every ``diagnostic_interval`` steps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.grid import (
    code_distance,
    compute_ulp_distance,
    correlate_with_field,
    distance_statistics,
    grid_alignment_statistics,
    stiffness,
)
from altgrad_cli.metrics.prediction import room_to_move
from altgrad_cli.metrics.spec import MetricSpec

Values = dict[str, float | None]


@torch.no_grad()
def measure_stiffness(
    weights: Tensor, gradient: Tensor, update: Tensor, format: FP8Format, scale: float | Tensor
) -> Values:
    """The stiffness field of a layer, and gradient and update against it.

    Args:
        weights: the weights before the step.
        gradient: their gradient, same shape.
        update: the optimizer's change dw before rounding, same shape.
        format: their grid.
        scale: its scale before the step.
    """
    field = stiffness(weights, format, scale).double()
    gradient_pairs = correlate_with_field(gradient, field)
    update_pairs = correlate_with_field(update, field)
    up, down = room_to_move(weights, format, scale)
    return {
        "stiffness_mean": field.mean().item(),
        "stiffness_max": field.max().item(),
        "stiffness_std": field.std(correction=0).item(),
        "gradient_stiffness_correlation": gradient_pairs["correlation"],
        "gradient_below_stiffness": gradient_pairs["below"],
        "gradient_below_half_gap": _share_within_room(-gradient, up, down),
        "update_stiffness_correlation": update_pairs["correlation"],
        "update_below_stiffness": update_pairs["below"],
        "update_below_half_gap": _share_within_room(update, up, down),
    }


def _share_within_room(step: Tensor, up: Tensor, down: Tensor) -> float:
    room = torch.where(step > 0, up, down)
    return (step.double().abs() < room).double().mean().item()


def measure_grid_alignment(weights: Tensor, format: FP8Format, scale: float | Tensor) -> Values:
    """How far a layer's weights are from their grid; all 0 for stored weights on it."""
    return dict(grid_alignment_statistics(weights, format, scale))


def measure_ulp(before: Tensor, after: Tensor, format: FP8Format, scale: float | Tensor) -> Values:
    """Codes (and, as ``ulp_fp32_*``, float32 ULPs) that a step moved a layer's weights; pre-step scale."""
    values: Values = dict(distance_statistics(code_distance(before, after, format, scale)))
    carrier = distance_statistics(compute_ulp_distance(before.float(), after.float()))
    values |= {name.replace("ulp", "ulp_fp32", 1): value for name, value in carrier.items()}
    values["sign_flip_rate"] = (torch.sign(before) * torch.sign(after) < 0).double().mean().item()
    return values


_mean = partial(MetricSpec, cadence="interval", pooling="weights")
_largest = partial(MetricSpec, cadence="interval", pooling="max")

INTERVAL_METRICS = (
    _mean(
        "stiffness_mean",
        "weight units",
        "mean of S(w) = s 2^(max(floor log2|w/s|, emin) - M), the gap at each weight",
    ),
    _largest("stiffness_max", "weight units", "largest S(w)"),
    _mean("stiffness_std", "weight units", "standard deviation of S(w)"),
    _mean("grid_error_mean", "weight units", "mean of |w - Q(w)|"),
    _largest("grid_error_max", "weight units", "largest |w - Q(w)|"),
    _mean("grid_error_std", "weight units", "standard deviation of |w - Q(w)|"),
    _mean("gradient_stiffness_correlation", "correlation", "Pearson correlation of |g| and S(w)"),
    _mean("update_stiffness_correlation", "correlation", "Pearson correlation of |dw| and S(w)"),
    _mean("gradient_below_stiffness", "fraction", "share of weights with |g| < S(w)", bad="high"),
    _mean(
        "gradient_below_half_gap",
        "fraction",
        "share of weights with |g| below the half gap in the direction of -g",
        bad="high",
    ),
    _mean("update_below_stiffness", "fraction", "share of weights with |dw| < S(w)", bad="high"),
    _mean(
        "update_below_half_gap",
        "fraction",
        "share of weights with |dw| below the half gap in the direction of dw",
        bad="high",
    ),
    _mean("on_grid_frac", "fraction", "share of weights that lie on the grid exactly", heading="on the grid"),
    _mean(
        "sign_flip_rate",
        "fraction",
        "share of weights that went from one sign to the other within the step (to or from 0 is none)",
    ),
    _mean("ulp_zero_frac", "fraction", "share of weights whose code did not move", bad="high"),
    _mean("ulp_fp32_zero_frac", "fraction", "share of weights whose float32 value did not move"),
    _mean("grid_error_ulp_mean", "ULP of the format", "mean of |w - Q(w)| / S(w)"),
    _largest(
        "grid_error_ulp_max",
        "ULP of the format",
        "largest |w - Q(w)| / S(w); at most 0.5 away from saturation",
    ),
    _mean("ulp_mean", "ULP of the format", "mean of |c(after) - c(before)|, codes moved in the step"),
    _mean("ulp_median", "ULP of the format", "median of |c(after) - c(before)|"),
    _largest("ulp_max", "ULP of the format", "largest |c(after) - c(before)|"),
    _mean(
        "ulp_fp32_mean",
        "ULP of float32",
        "mean movement in float32 ULPs at the weight before (torch.nextafter)",
    ),
    _mean("ulp_fp32_median", "ULP of float32", "median movement in float32 ULPs"),
    _largest("ulp_fp32_max", "ULP of float32", "largest movement in float32 ULPs"),
)
