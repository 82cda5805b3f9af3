"""Every layer in numbers at the recorded step, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES, Role
from altgrad_cli.forensics.scene import Scene
from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.code_use import CODE_USE_COLUMNS, code_entropy, codes_used, measure_code_use
from altgrad_cli.metrics.gradient import GRADIENT_COLUMNS, gradient_sparsity, measure_gradients
from altgrad_cli.metrics.grid import grid_alignment_statistics, stiffness
from altgrad_cli.metrics.rounding import overflow_rate, pool_rounding, rounding_row, underflow_rate
from altgrad_cli.metrics.shadow import SHADOW_COLUMNS, gradient_cosine, gradient_sqnr, measure_shadow
from altgrad_cli.metrics.update import UPDATE_COLUMNS, bit_stall_rate, measure_updates, update_transfer
from altgrad_cli.metrics.update import zero_update_fraction as zero_updates
from altgrad_cli.rounding.quantize import code_histogram, round_to_grid
from altgrad_cli.rounding.scaling import stored_weight_scale
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import StepResult, compute_step, shadow_step
from altgrad_cli.training.tracing import clip_like_engine
from altgrad_cli.training.update import candidate_update


@dataclass(frozen=True, slots=True)
class Examination:
    """One repetition of the step, measured."""

    layers: list[dict[str, Any]]
    """Rows of the table, worst first."""
    shadow: Tensor | None
    """The float32 gradient of the same batch; None where it is not finite or there is no batch."""
    zeroed: dict[str, float | None]
    """Share of non-zero values rounded to 0, pooled over a role."""
    nonfinite: int
    """Non-finite values in loss, gradient, quantiser inputs and weights."""


def examine(scene: Scene) -> Examination:
    """Repeat the step (as far as there is a batch for it) and measure every layer."""
    state = scene.state
    rows = [_weight_row(state, index) for index in range(len(state.layers))]
    bad = sum(row["nonfinite_weights"] for row in rows)
    if scene.batch is None:
        return Examination(_worst_first(rows), None, {}, bad)
    with scene.faults.active(state, scene.step) as tap:
        result = compute_step(state, scene.batch, tap=tap)
    reference = shadow_step(state, scene.batch)
    shadow = reference.gradient if bool(torch.isfinite(reference.gradient).all()) else None
    _add_rounding(rows, result)
    _add_gradient(rows, state, result, shadow)
    _add_update(rows, scene, result)
    bad += sum(row["nonfinite_inputs"] or 0 for row in rows) + int((~torch.isfinite(result.gradient)).sum())
    bad += int(not math.isfinite(float(result.loss)))
    return Examination(_worst_first(rows), shadow, _zeroed(state, result), bad)


def _weight_row(state: TrainState, index: int) -> dict[str, Any]:
    layer = state.plan.layers[index]
    weight = state.layers[index][1].weight.detach()
    fmt, scale = grid_of_weights(state, index, weight)
    row: dict[str, Any] = {
        "name": layer.name,
        "formats": {role: grid.name for role, grid in layer.formats},
        "recipe": layer.recipe,
        "format": None if fmt is None else fmt.describe(),
        "scale": scale,
        "nonfinite_weights": int((~torch.isfinite(weight)).sum()),
        **dict.fromkeys(_MEASURED),
    }
    return row | weight_measures(weight, fmt, scale)


_MEASURED = (
    "amax",
    "overflow_rate",
    "underflow_rate",
    "nonfinite_inputs",
    "bit_stall_rate",
    "zero_update_fraction",
    "update_transfer",
    "gradient_sparsity",
    "gradient_sqnr",
    "gradient_cosine",
)


def grid_of_weights(state: TrainState, index: int, weight: Tensor) -> tuple[FP8Format | None, float | None]:
    """The grid that the layer's weights live on or are rounded to, and its scale."""
    stored = state.stored_format(index)
    if stored is not None:
        return stored, state.stored_scales[index]
    fmt = state.plan.layers[index].format_of("weights")
    if fmt is None:
        return None, None
    scale = state.scales.current(state.plan, state.config)[index][0]
    if scale is None:
        amax = float(torch.nan_to_num(weight, posinf=0.0, neginf=0.0).abs().max())
        scale = stored_weight_scale(amax, fmt, None)
    return fmt, scale


def weight_measures(weight: Tensor, fmt: FP8Format | None, scale: float | None) -> dict[str, Any]:
    """Stiffness, alignment and code use of weights on a grid; None where there is no grid."""
    if fmt is None or scale is None:
        return dict.fromkeys(
            (
                "stiffness_median",
                "grid_error_ulp_mean",
                "on_grid",
                "rounded_to_zero",
                "codes_used",
                "code_entropy",
            )
        )
    finite = weight[torch.isfinite(weight)].flatten()
    if not finite.numel():
        return weight_measures(weight, None, None)
    alignment = grid_alignment_statistics(finite, fmt, scale)
    rounded = round_to_grid(finite, fmt, scale)
    nonzero = finite != 0
    measures: dict[str, Any] = {
        "stiffness_median": float(stiffness(finite, fmt, scale).median()),
        "grid_error_ulp_mean": alignment["grid_error_ulp_mean"],
        "on_grid": alignment["on_grid_frac"],
        "rounded_to_zero": float(((rounded == 0) & nonzero).sum()) / max(int(nonzero.sum()), 1),
        "codes_used": None,
        "code_entropy": None,
    }
    if fmt.width <= 8:
        counted = measure_code_use(code_histogram(weight, fmt, scale).unsqueeze(0), fmt)[0].tolist()
        use = dict(zip(CODE_USE_COLUMNS, counted, strict=True))
        measures |= {"codes_used": codes_used(use), "code_entropy": code_entropy(use)}
    return measures


def _add_rounding(rows: list[dict[str, Any]], result: StepResult) -> None:
    assert result.stats is not None
    for row, table in zip(rows, result.stats.tolist(), strict=True):
        by_role = {
            role: rounding_row(values)
            for role, values in zip(OPERAND_ROLES, table, strict=True)
            if not math.isnan(values[1])
        }
        row["amax"] = {role: counts["amax"] for role, counts in by_role.items()}
        row["overflow_rate"] = {role: overflow_rate(counts) for role, counts in by_role.items()}
        row["underflow_rate"] = {role: underflow_rate(counts) for role, counts in by_role.items()}
        row["nonfinite_inputs"] = int(sum(counts["nonfinite"] for counts in by_role.values()))


def _add_gradient(
    rows: list[dict[str, Any]], state: TrainState, result: StepResult, shadow: Tensor | None
) -> None:
    layout = state.flat.layout(blocks_only=True)
    end = state.flat.linear_end
    gradient = result.gradient[:end].contiguous()
    raw, _ = measure_gradients(layout, gradient)
    for row, values in zip(rows, raw.tolist(), strict=False):
        row["gradient_sparsity"] = gradient_sparsity(dict(zip(GRADIENT_COLUMNS, values, strict=True)))
    if shadow is None:
        return
    compared = measure_shadow(layout, gradient, shadow[:end].contiguous())
    for row, values in zip(rows, compared.tolist(), strict=False):
        sums = dict(zip(SHADOW_COLUMNS, values, strict=True))
        row["gradient_sqnr"] = gradient_sqnr(sums)
        row["gradient_cosine"] = gradient_cosine(sums)


def _add_update(rows: list[dict[str, Any]], scene: Scene, result: StepResult) -> None:
    state = scene.state
    if not bool(torch.isfinite(result.gradient).all()):
        return
    clip_like_engine(state, result)
    update = scene.faults.alter_update(
        state, candidate_update(state, result.gradient, scene.learning_rate), scene.step
    )
    if not update.finite:
        return
    end = state.flat.linear_end
    before = state.flat.values[:end]
    change = update.wide[:end] - before
    after = update.wide[:end] if update.rounded is None else update.rounded
    stored = [state.stored_format(index) is not None for index in range(state.flat.linear_count)]
    layout = state.flat.layout(blocks_only=True)
    raw, _ = measure_updates(layout, before, after, change, result.gradient[:end].contiguous(), stored=stored)
    for row, values, on_grid in zip(rows, raw.tolist(), stored, strict=False):
        counts = dict(zip(UPDATE_COLUMNS, values, strict=True))
        row["zero_update_fraction"] = zero_updates(counts)
        if on_grid:
            row["bit_stall_rate"] = bit_stall_rate(counts)
            row["update_transfer"] = update_transfer(counts)


def _zeroed(state: TrainState, result: StepResult) -> dict[str, float | None]:
    assert result.stats is not None
    roles: list[Role] = list(OPERAND_ROLES)
    return {
        role: underflow_rate(pool_rounding(result.stats[:, index].tolist()))
        for index, role in enumerate(roles)
    }


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=badness, reverse=True)


def badness(row: Mapping[str, Any]) -> tuple[float, ...]:
    """What makes a layer worse, in order: non-finite values, overflow, stall, underflow, noise."""
    return (
        float(row["nonfinite_weights"] + (row["nonfinite_inputs"] or 0)),
        _largest(row["overflow_rate"]),
        _or_zero(row["bit_stall_rate"]),
        _largest(row["underflow_rate"]),
        -_or_zero(row["gradient_sqnr"]),
    )


def _largest(by_role: Mapping[str, float | None] | None) -> float:
    values: Sequence[float] = [_or_zero(value) for value in (by_role or {}).values()]
    return max(values, default=0.0)


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value
