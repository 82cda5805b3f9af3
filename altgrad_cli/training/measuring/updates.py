"""What an update does to the weights, measured before it is committed, and the heavy interval diagnostics.

Hidden layers only, but for the rank: a head's weight, which may be the token embedding too, is never stored
on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.catalogue import METRICS
from altgrad_cli.metrics.persistence import PersistentStall, ZeroUpdateRegions
from altgrad_cli.metrics.rounding import (
    CODE_USE_COLUMNS,
    CODE_USE_METRICS,
    grid_histograms,
    measure_code_use,
)
from altgrad_cli.metrics.spec import evaluate
from altgrad_cli.metrics.stall import predicted_stall_rate
from altgrad_cli.metrics.update import (
    MASTER_UPDATE_METRICS,
    SHARED_UPDATE_METRICS,
    STORED_UPDATE_METRICS,
    UPDATE_COLUMNS,
    measure_updates,
)
from altgrad_cli.metrics.weights.grid import (
    grid_alignment_statistics,
    measure_stiffness,
    measure_ulp,
    stiffness,
)
from altgrad_cli.metrics.weights.rank import RankTrend, measure_rank
from altgrad_cli.rounding.quantize import round_to_grid
from altgrad_cli.surgery.linear import WEIGHTS, operand_grids
from altgrad_cli.training.measuring.codes import CodeCensus
from altgrad_cli.training.measuring.passes import Measurements, Value
from altgrad_cli.training.measuring.reduce import pool, pool_values, read_tables
from altgrad_cli.training.passes.eager import PassResult
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import Step
from altgrad_cli.training.update import CandidateUpdate

ScaledFormat = tuple[FP8Format, Tensor]
"""A format, and the scale of each value of a tensor, as what broadcasts with it."""


def weight_grids(state: TrainState, result: PassResult) -> list[ScaledFormat | None]:
    """Format and pre-step scales of the grid each block layer's weights are used on; None where float32."""
    grids: list[ScaledFormat | None] = []
    for layer, shape in enumerate(state.flat.shapes[: state.flat.linear_count]):
        grid, scales = state.stored_grid(layer), state.stored_scales[layer]
        if grid is None or scales is None:
            grid = operand_grids(state.plan.layers[layer], state.config.precision.scaling)[WEIGHTS]
            scales = result.scales_used.get((layer, WEIGHTS))
        if grid is None or scales is None:
            grids.append(None)
        else:
            matrix = shape[0], math.prod(shape[1:])  # as which blocks lie in the weight of a convolution
            spread = grid.spread(scales, matrix)
            apart = spread.dim() and len(shape) > 2
            grids.append((grid.element, spread.expand(matrix).reshape(shape) if apart else spread))
    return grids


def read_update(
    state: TrainState,
    step: Step,
    persistence: PersistentStall | None = None,
    regions: ZeroUpdateRegions | None = None,
) -> None:
    """Add what a finite update is going to do to the step's measurements, before the step is committed.

    ``persistence`` and ``regions`` are advanced by it.
    """
    flat, layer_count, result, update = state.flat, len(state.layers), step.result, step.update
    assert update is not None
    measured = step.summary.measured
    end = flat.linear_end
    grids = weight_grids(state, result)
    stored = [state.stored_grid(layer) is not None for layer in range(flat.linear_count)]
    before, after = _grid_values(state, result, update, grids, stored)
    counts, row_counts = measure_updates(
        flat.layout(blocks_only=True) if persistence is None else persistence.layout,
        before,
        after,
        update.unrounded[:end] - flat.values[:end],
        result.gradient[:end],
        stored=stored,
        persistence=persistence,
    )
    if regions is not None:
        regions.advance(row_counts)
    code_layers, code_tables = _code_use(flat.linear_views(after), grids)
    tables = [counts, *code_tables]
    if update.stored_stats is not None:
        tables.append(update.stored_stats)
    read = read_tables(tables)
    rows = [dict(zip(UPDATE_COLUMNS, row, strict=True)) for row in read[0]]
    rounded = [grid is not None and not on_grid for grid, on_grid in zip(grids, stored, strict=True)]
    for specs, members in (
        (STORED_UPDATE_METRICS, stored),
        (MASTER_UPDATE_METRICS, rounded),
        (SHARED_UPDATE_METRICS, [True] * len(rows)),  # last: in a mixed plan these are of both kinds
    ):
        if any(members):
            mine = [row if member else None for row, member in zip(rows, members, strict=True)]
            pooled = pool(UPDATE_COLUMNS, [r for r, member in zip(read[0], members, strict=True) if member])
            measured.add(specs, pooled, [*mine, *[None] * (layer_count - len(mine))])
    if update.stored_stats is not None:
        unmeasured = [[math.nan] * len(read[-1][0])] * (layer_count - flat.linear_count)
        measured.add_rounding([*read[-1], *unmeasured], "/stored_weights")
    code_rows = [row for table in read[1 : 1 + len(code_tables)] for row in table]
    for role, kind in (("stored_weights", True), ("weights", False)):
        by_layer = {i: row for i, row in zip(code_layers, code_rows, strict=True) if stored[i] == kind}
        if by_layer:
            _add_code_use(measured, by_layer, layer_count, role)


def _grid_values(
    state: TrainState,
    result: PassResult,
    update: CandidateUpdate,
    grids: list[ScaledFormat | None],
    stored: list[bool],
) -> tuple[Tensor, Tensor]:
    """(before, after) as flat grid values: stored weights, or where a master is kept what it rounds to."""
    flat = state.flat
    end = flat.linear_end
    if update.rounded is not None and all(stored):
        return flat.values[:end], update.rounded
    before, after = flat.values[:end].clone(), update.unrounded[:end].clone()
    targets = zip(flat.linear_views(before), flat.linear_views(after), strict=True)
    for layer, (old, new) in enumerate(targets):
        grid = grids[layer]
        if stored[layer]:
            assert update.stored is not None
            new.copy_(update.stored[layer])
        elif grid is not None:
            old.copy_(result.rounded_weights[layer].view_as(old))
            round_to_grid(new, *grid, out=new)
    return before, after


def _code_use(
    values: Sequence[Tensor], grids: Sequence[ScaledFormat | None]
) -> tuple[list[int], list[Tensor]]:
    """Layers with a grid of at most 8 bits, and their code-use rows, one table per format in layer order."""
    by_format: dict[FP8Format, list[int]] = {}
    for index, grid in enumerate(grids):
        if grid is not None and grid[0].width <= 8:
            by_format.setdefault(grid[0], []).append(index)
    tables = []
    for fmt, indices in by_format.items():
        scales = [grids[i][1] for i in indices]  # type: ignore[index]
        tables.append(measure_code_use(grid_histograms([values[i] for i in indices], fmt, scales), fmt))
    return [index for indices in by_format.values() for index in indices], tables


def _add_code_use(measured: Measurements, rows: dict[int, list[float]], layer_count: int, role: str) -> None:
    values = {
        layer: evaluate(CODE_USE_METRICS, dict(zip(CODE_USE_COLUMNS, row, strict=True)))
        for layer, row in rows.items()
    }
    for spec in CODE_USE_METRICS:
        column = {layer: entry[spec.name] for layer, entry in values.items()}
        measured.put_layers(f"{spec.name}/{role}", column, layer_count)
        # Histograms on different scales do not add up: the run-wide value is made from the layers' values.
        if (value := pool_values(spec.pooling, list(column.values()), [1] * len(column))) is not None:
            measured.metrics[f"{spec.name}/{role}"] = value


def interval_diagnostics(
    state: TrainState,
    step: Step,
    census: CodeCensus,
    persistence: PersistentStall | None,
    regions: ZeroUpdateRegions | None,
    ranks: RankTrend | None,
) -> None:
    """The heavy measurements of every ``diagnostic_interval`` steps, on the weights before the update.

    ``ranks`` is advanced by it; None measures no rank.
    """
    config, flat, layer_count, update = state.config, state.flat, len(state.layers), step.update
    assert update is not None
    measured, grids = step.summary.measured, weight_grids(state, step.result)
    columns: dict[str, list[Value]] = {}

    def put(layer: int, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            columns.setdefault(name, [None] * layer_count)[layer] = value

    weights, unrounded = flat.linear_views(flat.values), flat.linear_views(update.unrounded)
    gradients = flat.linear_views(step.result.gradient)
    for layer, grid in enumerate(grids):
        if grid is None:
            continue
        w = weights[layer]
        predicts = config.optimizer.steps_are_adamws and update.learning_rate > 0
        if state.stored_grid(layer) is not None and predicts:
            beta1 = config.optimizer.betas[0]
            expected = predicted_stall_rate(w, *grid, update.learning_rate, beta1)
            put(layer, {"predicted_stall_rate": float(expected)})
        if config.log_stiffness:
            put(layer, measure_stiffness(w, gradients[layer], unrounded[layer] - w, *grid))
        if config.log_grid_alignment:
            put(layer, grid_alignment_statistics(w, *grid))
        if config.log_ulp:
            after = unrounded[layer] if update.stored is None else update.stored[layer]
            put(layer, measure_ulp(w, after, *grid))
        if update.stored is not None and state.stored_grid(layer) is not None:
            census.count_stored(layer, update.stored[layer], *grid)
    if persistence is not None:
        gaps = torch.full_like(flat.values[: flat.linear_end], torch.nan)
        for grid, w, gap in zip(grids, weights, flat.linear_views(gaps), strict=True):
            if grid is not None:
                gap.copy_(stiffness(w, *grid))
        for layer, rate in enumerate(persistence.rates(gaps).tolist()):
            if state.stored_grid(layer) is not None:
                put(layer, {"persistent_stall_rate": rate})
    if regions is not None:
        shares, stuck = regions.layer_fractions().tolist(), regions.row_counts().tolist()
        for layer, (share, count) in enumerate(zip(shares, stuck, strict=True)):
            if not math.isnan(share):
                put(layer, {"zero_update_region_fraction": share, "zero_update_rows": count})
    if ranks is not None:
        for layer, (_, module) in enumerate(state.layers):
            put(layer, measure_rank(module.weight))
        for layer, fall in enumerate(ranks.advance(columns["effective_rank"])):
            if fall is not None:
                put(layer, {"effective_rank_fall": fall})
    sizes = [view.numel() for view in weights]  # of the hidden layers: the run's values leave the head out
    for name, column in columns.items():
        measured.layers[name] = column
        if (pooled := pool_values(METRICS[name].pooling, column, sizes)) is not None:
            measured.metrics[name] = pooled


def add_rescale_flips(state: TrainState, flips: dict[int, float], measured: Measurements) -> None:
    """Add the share of weights that new scales re-encoded: of each re-scaled layer, and of all."""
    flat = state.flat
    measured.put_layers("rescale_flip_rate", flips, len(state.layers))
    sizes = [view.numel() for view in flat.linear_views(flat.values)]
    rates = [flips.get(layer, 0.0) for layer in range(len(sizes))]
    measured.metrics["rescale_flip_rate"] = pool_values(METRICS["rescale_flip_rate"].pooling, rates, sizes)
