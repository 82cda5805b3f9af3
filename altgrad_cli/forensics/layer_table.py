"""Every layer in numbers at the recorded step, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.forensics.step_again.variations import Outcome, outcome_of
from altgrad_cli.metrics.persistence import DeadNeurons
from altgrad_cli.metrics.rounding import code_use
from altgrad_cli.metrics.weights.grid import grid_alignment_statistics, stiffness
from altgrad_cli.rounding.grid import Grid, stored_grid
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.scaling import finite_part
from altgrad_cli.surgery.linear import WEIGHTS, operand_grids
from altgrad_cli.training.measuring.passes import Measurements, read_pass
from altgrad_cli.training.passes.eager import shadow_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import compute_step


@dataclass(frozen=True, kw_only=True, slots=True)
class GridMeasures:
    """Weights on their grid; None where there is none."""

    stiffness_median: float | None = None
    grid_error_ulp_mean: float | None = None
    on_grid: float | None = None
    rounded_to_zero: float | None = None
    codes_used: float | None = None
    code_entropy: float | None = None


ByRole = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One layer at the step at hand. None where a quantity was not measured."""

    name: str
    formats: Mapping[str, str]
    recipe: str
    format: str | None
    """The grid of its weights, in words."""
    scale: float | None
    nonfinite_weights: int
    amax: ByRole | None
    overflow_rate: ByRole | None
    underflow_rate: ByRole | None
    nonfinite_inputs: int | None
    bit_stall_rate: float | None
    zero_update_fraction: float | None
    update_transfer: float | None
    gradient_sparsity: float | None
    gradient_sqnr: float | None
    gradient_cosine: float | None
    grid: GridMeasures = field(metadata={"merged": {}})

    @property
    def nonfinite(self) -> int:
        """Values of its weights and operands that are not finite."""
        return self.nonfinite_weights + (self.nonfinite_inputs or 0)


@dataclass(frozen=True, slots=True)
class Examination:
    """One repetition of the step, measured."""

    layers: list[LayerRow]
    """Rows of the table, worst first."""
    shadow: Tensor | None
    """The float32 gradient of the same batch; None where it is not finite or there is no batch."""
    zeroed: Mapping[str, float | None]
    """Share of non-zero values rounded to 0, pooled over a role."""
    nonfinite: int
    """Non-finite values in loss, gradient, quantiser inputs and weights."""
    recorded: Outcome | None
    """What the step came to; None without a batch."""


def examine(given: ReplayState) -> Examination:
    """Repeat the step (as far as there is a batch for it) and measure every layer."""
    state, batch = given.state, given.batch
    if batch is None:
        rows = _worst_first([_row(state, index, None) for index in range(len(state.layers))])
        return Examination(rows, None, {}, sum(row.nonfinite for row in rows), None)
    reference = shadow_pass(state, batch)
    shadow = reference if bool(torch.isfinite(reference.gradient).all()) else None
    neurons = DeadNeurons(state.flat.layout(blocks_only=False))
    step = compute_step(
        state, batch, faults=given.faults, read=lambda result: read_pass(state, result, shadow, neurons)
    )
    gradient = None if shadow is None else shadow.gradient
    recorded = outcome_of(state, step, gradient)
    measured = step.summary.measured
    rows = _worst_first([_row(state, index, measured) for index in range(len(state.layers))])
    bad = sum(row.nonfinite for row in rows)
    bad += int((~torch.isfinite(step.result.gradient)).sum()) + int(not math.isfinite(step.summary.loss))
    zeroed: dict[str, float | None] = {
        role: measured.metrics.get(f"underflow_rate/{role}") for role in OPERAND_ROLES
    }
    return Examination(rows, gradient, zeroed, bad, recorded)


def _row(state: TrainState, index: int, measured: Measurements | None) -> LayerRow:
    """The row of layer number ``index``, with what the step measured of it."""
    layer, weight = state.plan.layers[index], state.layers[index][1].weight.detach()
    grid, scales = _grid_of_weights(state, index, weight)

    def value(name: str) -> float | None:
        values = None if measured is None else measured.layers.get(name)
        return None if values is None else values[index]

    def by_role(name: str) -> ByRole | None:
        if measured is None:
            return None
        values = {role: value(f"{name}/{role}") for role in OPERAND_ROLES}
        return {role: number for role, number in values.items() if number is not None}

    inputs = by_role("nonfinite_inputs")
    return LayerRow(
        name=layer.name,
        formats={role: grid.name for role, grid in layer.formats},
        recipe=layer.recipe,
        format=None if grid is None else grid.element.describe(),
        scale=None if grid is None or scales is None else grid.scale_at(scales, weight.shape, None),
        nonfinite_weights=int((~torch.isfinite(weight)).sum()),
        amax=by_role("amax"),
        overflow_rate=by_role("overflow_rate"),
        underflow_rate=by_role("underflow_rate"),
        nonfinite_inputs=None if inputs is None else int(sum(inputs.values())),
        bit_stall_rate=value("bit_stall_rate"),
        zero_update_fraction=value("zero_update_fraction"),
        update_transfer=value("update_transfer"),
        gradient_sparsity=value("gradient_sparsity"),
        gradient_sqnr=value("gradient_sqnr"),
        gradient_cosine=value("gradient_cosine"),
        grid=weight_measures(weight, grid, scales),
    )


def _grid_of_weights(state: TrainState, index: int, weight: Tensor) -> tuple[Grid | None, Tensor | None]:
    """The grid that the layer's weights live on or are rounded to, and its scales."""
    stored = state.stored_grid(index)
    if stored is not None:
        return stored, state.stored_scales[index]
    grid = operand_grids(state.plan.layers[index], state.config.precision.scaling)[WEIGHTS]
    if grid is None:
        return None, None
    scales = state.scales.current(state.plan, state.config).get((index, WEIGHTS))
    if scales is None:
        scales = stored_grid(grid.element).stored_scales(finite_part(weight))
    return grid, scales


def weight_measures(weight: Tensor, grid: Grid | None, scales: Tensor | None) -> GridMeasures:
    """Stiffness, alignment and code use of weights on a grid; None where there is no grid."""
    is_finite = torch.isfinite(weight)
    finite = weight[is_finite]
    if grid is None or scales is None or not finite.numel():
        return GridMeasures()
    fmt, spread = grid.element, grid.spread(scales, weight.shape)
    scale = spread.expand(weight.shape)[is_finite] if spread.dim() else spread
    alignment = grid_alignment_statistics(finite, fmt, scale)
    rounded = round_to_grid(finite, fmt, scale)
    nonzero = finite != 0
    used = entropy = None
    if fmt.width <= 8:
        use = code_use(weight, fmt, spread)
        used, entropy = use["codes_used"], use["code_entropy"]
    return GridMeasures(
        stiffness_median=float(stiffness(finite, fmt, scale).median()),
        grid_error_ulp_mean=alignment["grid_error_ulp_mean"],
        on_grid=alignment["on_grid_frac"],
        rounded_to_zero=float(((rounded == 0) & nonzero).sum()) / max(int(nonzero.sum()), 1),
        codes_used=used,
        code_entropy=entropy,
    )


def _worst_first(rows: list[LayerRow]) -> list[LayerRow]:
    """By non-finite values, then overflow, stall, underflow and noise."""
    return sorted(rows, key=_badness, reverse=True)


def _badness(row: LayerRow) -> tuple[float, ...]:
    overflow, underflow = ((rates or {}).values() for rates in (row.overflow_rate, row.underflow_rate))
    return (
        float(row.nonfinite),
        max(map(_or_zero, overflow), default=0.0),
        _or_zero(row.bit_stall_rate),
        max(map(_or_zero, underflow), default=0.0),
        -_or_zero(row.gradient_sqnr),
    )


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value
