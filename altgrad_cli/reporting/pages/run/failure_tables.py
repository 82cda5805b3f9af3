"""The measured part of a failure report: layer by layer, code by code, and over the last measurements."""

from __future__ import annotations

from collections.abc import Iterable

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.thresholds import COLLAPSE_WINDOW, REGION_FROM, REGION_STEPS
from altgrad_cli.reporting.blocks.document import (
    Section,
    Table,
    TableColumn,
    Text,
    listed,
    picture,
    section,
)
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.evidence.windows import Window, diagnostic_steps, telling_window
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.runs.record import RunRecord


def _layer_table(
    scope: Scope, log: RunRecord, window: Window, quantities: Iterable[str], layers: Iterable[str] = ()
) -> Table | None:
    """One row a layer (all of them, or ``layers``); each column a reduction of a metric over the window."""
    columns = (f"{quantity}[{{}}]{window.range}" for quantity in quantities)
    return scope.evidence.table("layer", layers or log.layers, columns, of=log.name)


def _over(scope: Scope, log: RunRecord, window: Window) -> str:
    return f"Means over steps {scope.evidence.of(log)(f'window{window.range}')} ({window.what})."


def pictures(scope: Scope, log: RunRecord) -> Section | None:
    """Bit-stall, overflow and shadow cosine by layer and step."""
    return section(
        "Course",
        plots.heat_block("stall", [log], "Dashes: the collapse. Every row is one linear layer."),
        plots.heat_block("overflow", [log]),
        plots.heat_block("cosine", [log]),
    )


def gradient_sparsity(scope: Scope, log: RunRecord) -> Section | None:
    """Share of near-zero gradients, for the whole network and layer by layer."""
    n, window = scope.evidence.of(log), telling_window(log)
    quantities = "mean(gradient_sparsity) mean(gradient_norm) last(dead_neurons) mean(gradient_cosine)"
    table = _layer_table(scope, log, window, quantities.split())
    if table is None:
        return None
    text = (
        f"Of all weight gradients, {n(f'mean(gradient_sparsity){window.range}')} were smaller than "
        f"{scope.evidence.cite('rule: gradient_sparsity.below')} in magnitude; the layer with most of them "
        f"is {n(f'worst_layer(gradient_sparsity){window.range}')}. {_over(scope, log, window)}"
    )
    return section("Gradient sparsity", Text(text), table)


def zero_update_regions(scope: Scope, log: RunRecord) -> Section | None:
    """The layers in which weights with a gradient do not move."""
    n, window = scope.evidence.of(log), telling_window(log)
    window = Window(max(window.first, window.last - REGION_STEPS + 1), window.last, window.what)
    means = log.layer_means("zero_update_fraction", window.first, window.last)
    measured = [(name, mean) for name, mean in zip(log.layers, means, strict=True) if mean is not None]
    if not measured:
        return None
    least = scope.evidence.cite("rule: zero_update_region.from")
    text = (
        f"{n(f'layers_at_least(zero_update_fraction>={REGION_FROM}){window.range}')} of "
        f"{n(f'measured_layers(zero_update_fraction){window.range}')} layers are zero-update regions over "
        f"steps {n(f'window{window.range}')}: at least {least} of their "
        "weights that had a gradient did not change."
    )
    quantities = ("mean(zero_update_fraction)", "last(zero_update_rows)", "last(persistent_stall_rate)")
    frozen = [name for name, mean in measured if mean >= REGION_FROM]
    table = _layer_table(scope, log, window, quantities, frozen) if frozen else None
    return section("Zero-update regions", Text(text), table)


def layer_rates(scope: Scope, log: RunRecord) -> Section | None:
    """Stall, overflow and underflow of every layer."""
    window = telling_window(log)
    quantities = [
        *("mean(bit_stall_rate)", "mean(apparent_stall_rate)", "mean(update_transfer)"),
        *(f"mean({rate}/{role})" for rate in ("overflow_rate", "underflow_rate") for role in OPERAND_ROLES),
        "mean(zero_share/stored_weights)",
    ]
    table = _layer_table(scope, log, window, quantities)
    text = Text(f"{_over(scope, log, window)} Rates are shares; {plots.ROLE_KEY}.")
    return section("Layers", text, table) if table else None


def code_use(scope: Scope, log: RunRecord) -> Section | None:
    """How much of the format's codes is in use."""
    n, window = scope.evidence.of(log), telling_window(log)
    measures = ("codes_used", "code_entropy", "zero_share")
    table = _layer_table(scope, log, window, [f"mean({name}/stored_weights)" for name in measures])
    drawn = (
        plots.code_map([log], role) for role in ("stored_weights", "gradients", "activations", "weights")
    )
    text = (
        f"Over all layers the stored weights use {n(f'mean(codes_used/stored_weights){window.range}')} "
        "of the format's finite codes, with an entropy of "
        f"{n(f'mean(code_entropy/stored_weights){window.range}')} of what as many equally used codes "
        f"would have. {_over(scope, log, window)}"
    )
    first = next((figure for figure in drawn if figure is not None), None)
    return section(
        "Codes",
        Text(text) if table else None,
        table,
        picture(first, "A row is one code, the largest value on top."),
    )


def rank(scope: Scope, log: RunRecord) -> Section | None:
    """How many directions the weights of each layer span in the end."""
    measures = ("effective_rank", "stable_rank", "variance_rank", "spectral_norm", "effective_rank_fall")
    columns: list[str | TableColumn] = [f"last({name})[{{}}]" for name in measures]
    columns.insert(1, TableColumn("at most", f"{log.name}: max(effective_rank)[{{}}]"))
    table = scope.evidence.table("layer", log.layers, columns, of=log.name)
    text = Text(
        "At the last measurement, and the largest effective rank of any. Effective rank: exp of the entropy "
        "of the singular values; stable rank: the sum of their squares over the largest. Learning lowers "
        "both in any format, and a layer that keeps the rank of its initial weights may just not have moved."
    )
    return section("Rank", text, table) if table else None


_TREND = (
    *(
        "loss",
        "validation_loss",
        "micro_f1",
        "macro_f1",
        "gradient_norm",
        "gradient_sparsity",
        "bit_stall_rate",
        "update_transfer",
    ),
    *("persistent_stall_rate", "overflow_rate/gradients", "underflow_rate/gradients", "gradient_cosine"),
    *("codes_used/stored_weights", "effective_rank"),
)


def diagnostic_trend(scope: Scope, log: RunRecord) -> Section | None:
    """The run's main measures at its last five diagnostic steps."""
    columns = [f"at({metric})@{{}}" for metric in _TREND]
    table = scope.evidence.table("step", diagnostic_steps(log), columns, of=log.name)
    text = Text("Values of the single step, pooled over the layers.")
    return section("Last measurements", text, table) if table else None


def predicted_stall(scope: Scope, log: RunRecord) -> Section | None:
    """The bit-stall that was to be expected before training, and the one that was measured."""
    if not log.predicted_stall:
        return None
    n = scope.evidence.of(log)
    warmup = int((log.config.get("optimizer") or {}).get("warmup_steps") or 0)
    first = min(warmup + 1, log.last_step)
    after = Window(first, min(first + COLLAPSE_WINDOW - 1, log.last_step), "").range
    lines = [
        (
            f"First step, at a learning rate of {n('predicted_stall.first_learning_rate')}: predicted "
            f"{n('predicted_stall.first_step')}, measured {n('at(bit_stall_rate)@1')}."
        ),
        (
            f"In the long run, at {n('predicted_stall.learning_rate')}: predicted "
            f"{n('predicted_stall.long_run')} from the initial weights, measured "
            f"{n(f'mean(bit_stall_rate){after}')} over steps {n(f'window{after}')}."
        ),
    ]
    points = picture(plots.prediction_figure([log]), "A point is one layer at one diagnostic step.")
    return section("Predicted stall", listed(lines), points)
