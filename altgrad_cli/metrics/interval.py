"""The heavy measures of one layer, taken every ``diagnostic_interval`` steps."""

from __future__ import annotations

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
from altgrad_cli.metrics.spec import Cadence, MetricSpec, Scope

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


_LAYER: Scope = "layer"
_INTERVAL: Cadence = "interval"


def _specs(unit: str, definitions: dict[str, str]) -> tuple[MetricSpec, ...]:
    return tuple(
        MetricSpec(name=name, unit=unit, definition=definition, scope=_LAYER, cadence=_INTERVAL)
        for name, definition in definitions.items()
    )


INTERVAL_METRICS = (
    *_specs(
        "weight units",
        {
            "stiffness_mean": "mean of S(w) = s 2^(max(floor log2|w/s|, emin) - M), the gap at each weight",
            "stiffness_max": "largest S(w)",
            "stiffness_std": "standard deviation of S(w)",
            "grid_error_mean": "mean of |w - Q(w)|",
            "grid_error_max": "largest |w - Q(w)|",
            "grid_error_std": "standard deviation of |w - Q(w)|",
        },
    ),
    *_specs(
        "correlation",
        {
            "gradient_stiffness_correlation": "Pearson correlation of |g| and S(w)",
            "update_stiffness_correlation": "Pearson correlation of |dw| and S(w)",
        },
    ),
    *_specs(
        "fraction",
        {
            "gradient_below_stiffness": "share of weights with |g| < S(w)",
            "gradient_below_half_gap": "share of weights with |g| below the half gap in the direction of -g",
            "update_below_stiffness": "share of weights with |dw| < S(w)",
            "update_below_half_gap": "share of weights with |dw| below the half gap in the direction of dw",
            "on_grid_frac": "share of weights that lie on the grid exactly",
            "sign_flip_rate": "share of weights that went from one sign to the other within the step (to or "
            "from 0 is none)",
            "ulp_zero_frac": "share of weights whose code did not move",
            "ulp_fp32_zero_frac": "share of weights whose float32 value did not move",
        },
    ),
    *_specs(
        "ULP of the format",
        {
            "grid_error_ulp_mean": "mean of |w - Q(w)| / S(w)",
            "grid_error_ulp_max": "largest |w - Q(w)| / S(w); at most 0.5 away from saturation",
            "ulp_mean": "mean of |c(after) - c(before)|, codes moved in the step",
            "ulp_median": "median of |c(after) - c(before)|",
            "ulp_max": "largest |c(after) - c(before)|",
        },
    ),
    *_specs(
        "ULP of float32",
        {
            "ulp_fp32_mean": "mean movement in float32 ULPs at the weight before (torch.nextafter)",
            "ulp_fp32_median": "median movement in float32 ULPs",
            "ulp_fp32_max": "largest movement in float32 ULPs",
        },
    ),
)
