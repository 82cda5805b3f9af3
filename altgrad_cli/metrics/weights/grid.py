"""Weights against the grid they live on: stiffness, alignment, ULP movement.

The functions of the study keep their names and literal meaning; the format-aware ones beside them know the
format's subnormals, its uniform grids and the scale. ``measure_*`` at the end are what is taken of a layer
every ``diagnostic_interval`` steps.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.metrics.spec import MetricSpec, ratio
from altgrad_cli.metrics.stall import room_to_move
from altgrad_cli.rounding.quantize import NAN_INDEX, code_index, round_to_grid
from altgrad_cli.rounding.scaling import checked_scale

_FIXED_POINT_MANTISSA_BITS = 7


def _binade(x: Tensor) -> Tensor:
    """floor(log2|x|) of finite non-zero float64, exactly: log2 itself is wrong just below powers of 2."""
    return torch.frexp(x).exponent - 1


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float64, exactly, from the bits; exponent within [-1022, 1023]."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


@torch.no_grad()
def compute_stiffness_field(weights: Tensor, mantissa_bits: int) -> Tensor:
    """Stiffness S = 2^(floor(log2|w|) - M), literally as the study has it.

    Args:
        weights: any float type and shape.
        mantissa_bits: M; 7 means E0M7, whose grid is uniform: 1/128 everywhere.

    Returns:
        S in weight units, same shape and type. Zero and non-finite weights give NaN (undefined) where
        M is not 7. BF16 also has M = 7: use ``stiffness``, which asks the format.
    """
    if mantissa_bits == _FIXED_POINT_MANTISSA_BITS:
        return torch.full_like(weights, 2.0**-mantissa_bits)
    x = weights.double()
    defined = torch.isfinite(x) & (x != 0)
    field = _power_of_two(_binade(torch.where(defined, x, 1.0)) - mantissa_bits)
    return torch.where(defined, field, torch.nan).to(weights.dtype)


@torch.no_grad()
def stiffness(weights: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0) -> Tensor:
    """The gap of the scaled grid at each weight: s * 2^(max(floor(log2|w/s|), emin) - M).

    Uniform grids (E <= 1) have one gap, s * 2^(emin - M); zero and subnormals have the smallest. Same shape,
    float32, weight units. NaN stays NaN and inf gives inf.
    """
    s, format = checked_scale(scale, weights.shape), parse_format(format)
    x = (weights.float() / (s.float() if isinstance(s, Tensor) else s)).double()
    if format.is_uniform:
        field = torch.full_like(x, 2.0**format.smallest_exponent)
    else:
        ordinary = torch.isfinite(x) & (x != 0)
        exponent = _binade(torch.where(ordinary, x, 1.0)).clamp(min=format.emin)
        field = _power_of_two(torch.where(x == 0, format.emin, exponent) - format.mantissa_bits)
    return torch.where(torch.isfinite(x), field * s, x.abs()).float()


@torch.no_grad()
def grid_alignment_error(weights: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0) -> Tensor:
    """|w - Q(w)| in weight units, same shape, float32. NaN stays NaN."""
    w = weights.float()
    return (w - round_to_grid(w, format, scale)).abs()


@torch.no_grad()
def grid_alignment_statistics(
    weights: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0
) -> dict[str, float]:
    """Mean, max, standard deviation of ``grid_alignment_error``, the share on the grid, the error in ULP.

    A NaN weight makes all but the share NaN. Weights must not be empty.
    """
    error = grid_alignment_error(weights, format, scale).double()
    in_ulp = error / stiffness(weights, format, scale)
    return {
        "grid_error_mean": error.mean().item(),
        "grid_error_max": error.max().item(),
        "grid_error_std": error.std(correction=0).item(),
        "on_grid_frac": (error == 0).double().mean().item(),
        "grid_error_ulp_mean": in_ulp.mean().item(),
        "grid_error_ulp_max": in_ulp.max().item(),
    }


@torch.no_grad()
def compute_ulp_distance(before: Tensor, after: Tensor) -> Tensor:
    """|after - before| in units in the last place of the tensors' own type at ``before``, by torch.nextafter.

    This is the carrier's ULP and not the format's: one E5M2 step from 1.0 is 2,097,152 of float32.
    Same shape, float64. NaN stays NaN.
    """
    magnitude = before.abs()
    ulp = torch.nextafter(magnitude, torch.full_like(magnitude, torch.inf)).double() - magnitude.double()
    return (after.double() - before.double()).abs() / ulp


@torch.no_grad()
def code_distance(
    before: Tensor, after: Tensor, format: FP8Format | str, scale: float | Tensor = 1.0
) -> Tensor:
    """ULP movement on the format's grid: |c(after) - c(before)|, c the signed monotone code index.

    Same shape, float64 (whole numbers); NaN where either is NaN.
    """
    first, last = code_index(before, format, scale).long(), code_index(after, format, scale).long()
    moved = (last - first).abs().double()
    result: Tensor = moved.masked_fill((first == NAN_INDEX) | (last == NAN_INDEX), torch.nan)
    return result


def distance_statistics(distance: Tensor) -> dict[str, float]:
    """``ulp_mean``, ``ulp_median``, ``ulp_max`` and ``ulp_zero_frac`` of a non-empty tensor of distances."""
    flat = distance.flatten().double()
    return {
        "ulp_mean": flat.mean().item(),
        "ulp_median": flat.median().item(),
        "ulp_max": flat.max().item(),
        "ulp_zero_frac": (flat == 0).double().mean().item(),
    }


def ulp_statistics(before: Tensor, after: Tensor) -> dict[str, float]:
    """Statistics of ``compute_ulp_distance``: mean, (lower) median, max, and the share that did not move."""
    return distance_statistics(compute_ulp_distance(before, after))


def _pearson(x: Tensor, y: Tensor) -> float | None:
    """Pearson's correlation; None for fewer than two values or where one does not vary."""
    if x.numel() < 2:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    spread = dx.norm() * dy.norm()
    return ratio((dx @ dy).item(), spread.item())


def correlate_with_field(magnitudes: Tensor, field: Tensor) -> dict[str, float | None]:
    """How |g| (or |dw|) goes along with a field of gaps: Pearson, mean ratio, share below the field.

    Pairs with a NaN in the field (undefined stiffness) are left out; a non-finite magnitude is not: it shows
    in the result. Keys ``correlation``, ``ratio_mean``, ``below``; None where undefined.
    """
    g, s = magnitudes.flatten().double().abs(), field.flatten().double()
    defined = ~s.isnan()
    g, s = g[defined], s[defined]
    if not g.numel():
        return {"correlation": None, "ratio_mean": None, "below": None}
    return {
        "correlation": _pearson(g, s),
        "ratio_mean": (g / s).mean().item(),
        "below": (g < s).double().mean().item(),
    }


@torch.no_grad()
def gradient_stiffness_correlation(
    weights: Tensor, grads: Tensor, mantissa_bits: int
) -> dict[str, float | None]:
    """Pearson correlation of |g| and the literal stiffness, over the weights that have one.

    Keys: ``grad_stiff_correlation``, ``grad_stiff_ratio_mean``, ``grad_below_stiffness_frac``; None where
    undefined (no weight, or no variance: E0M7's stiffness is constant).
    """
    result = correlate_with_field(grads, compute_stiffness_field(weights.float(), mantissa_bits))
    return {
        "grad_stiff_correlation": result["correlation"],
        "grad_stiff_ratio_mean": result["ratio_mean"],
        "grad_below_stiffness_frac": result["below"],
    }


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


def measure_ulp(before: Tensor, after: Tensor, format: FP8Format, scale: float | Tensor) -> Values:
    """Codes (and, as ``ulp_fp32_*``, float32 ULPs) that a step moved a layer's weights; pre-step scale."""
    values: Values = dict(distance_statistics(code_distance(before, after, format, scale)))
    carrier = distance_statistics(compute_ulp_distance(before.float(), after.float()))
    values |= {name.replace("ulp", "ulp_fp32", 1): value for name, value in carrier.items()}
    values["sign_flip_rate"] = (torch.sign(before) * torch.sign(after) < 0).double().mean().item()
    return values


_mean = partial(MetricSpec, pooling="weights")
_largest = partial(MetricSpec, pooling="max")

INTERVAL_METRICS = (
    _mean(
        "stiffness_mean",
        "mean of S(w) = s 2^(max(floor log2|w/s|, emin) - M), the gap at each weight",
        unit="weight units",
    ),
    _largest("stiffness_max", "largest S(w)", unit="weight units"),
    _mean("stiffness_std", "standard deviation of S(w)", unit="weight units"),
    _mean("grid_error_mean", "mean of |w - Q(w)|", unit="weight units"),
    _largest("grid_error_max", "largest |w - Q(w)|", unit="weight units"),
    _mean("grid_error_std", "standard deviation of |w - Q(w)|", unit="weight units"),
    _mean("gradient_stiffness_correlation", "Pearson correlation of |g| and S(w)", unit="correlation"),
    _mean("update_stiffness_correlation", "Pearson correlation of |dw| and S(w)", unit="correlation"),
    _mean("gradient_below_stiffness", "share of weights with |g| < S(w)", bad="high"),
    _mean(
        "gradient_below_half_gap",
        "share of weights with |g| below the half gap in the direction of -g",
        bad="high",
    ),
    _mean("update_below_stiffness", "share of weights with |dw| < S(w)", bad="high"),
    _mean(
        "update_below_half_gap",
        "share of weights with |dw| below the half gap in the direction of dw",
        bad="high",
    ),
    _mean("on_grid_frac", "share of weights that lie on the grid exactly", heading="on the grid"),
    _mean(
        "sign_flip_rate",
        "share of weights that went from one sign to the other within the step (to or from 0 is none)",
    ),
    _mean("ulp_zero_frac", "share of weights whose code did not move", bad="high"),
    _mean("ulp_fp32_zero_frac", "share of weights whose float32 value did not move"),
    _mean("grid_error_ulp_mean", "mean of |w - Q(w)| / S(w)", unit="ULP of the format"),
    _largest(
        "grid_error_ulp_max",
        "largest |w - Q(w)| / S(w); at most 0.5 away from saturation",
        unit="ULP of the format",
    ),
    _mean("ulp_mean", "mean of |c(after) - c(before)|, codes moved in the step", unit="ULP of the format"),
    _mean("ulp_median", "median of |c(after) - c(before)|", unit="ULP of the format"),
    _largest("ulp_max", "largest |c(after) - c(before)|", unit="ULP of the format"),
    _mean(
        "ulp_fp32_mean",
        "mean movement in float32 ULPs at the weight before (torch.nextafter)",
        unit="ULP of float32",
    ),
    _mean("ulp_fp32_median", "median movement in float32 ULPs", unit="ULP of float32"),
    _largest("ulp_fp32_max", "largest movement in float32 ULPs", unit="ULP of float32"),
)
