"""The measured part of a failure report: layer by layer, code by code, and over the last measurements."""

from __future__ import annotations

from collections.abc import Sequence

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.thresholds import REGION_FROM, REGION_STEPS
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import (
    Block,
    Picture,
    Section,
    Table,
    Text,
    make_table,
    measured,
)
from altgrad_cli.reporting.evidence.facts import RULES
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.evidence.windows import Window, diagnostic_steps, telling_window
from altgrad_cli.reporting.pages.comparison import loss_plots, plots
from altgrad_cli.runs.record import RunRecord


def _layer_table(
    scope: Scope,
    log: RunRecord,
    window: Window,
    quantities: Sequence[str],
    layers: Sequence[str] | None = None,
) -> Table:
    """One row a layer (all of them, or ``layers``); each column a reduction of a metric over the window."""
    return make_table(
        scope.evidence,
        "layer",
        log.layers if layers is None else layers,
        [measured(f"{log.name}: {quantity}[{{}}]{window.range}") for quantity in quantities],
    )


def _over(scope: Scope, log: RunRecord, window: Window) -> str:
    return f"Means over steps {scope.evidence.of(log)(f'window{window.range}')} ({window.what})."


def pictures(scope: Scope, log: RunRecord) -> Section | None:
    """Loss beside the controls, and bit-stall, overflow and shadow cosine by layer and step."""
    controls = [run for regime in ("fp32", "frozen") if (run := scope.evidence.control(log, regime))]
    found: list[tuple[figures.Figure | None, str]] = [
        (
            loss_plots.loss_figure([*[run for run in controls if run is not log], log]),
            (
                "Means over about ten steps, the raw losses pale behind. A triangle marks the step the "
                "collapse was detected at; a cross, a loss that was not finite."
            ),
        ),
        (plots.layer_heat("stall", [log]), "White dashes: the collapse. Every row is one linear layer."),
        (plots.layer_heat("overflow", [log]), ""),
        (plots.layer_heat("cosine", [log]), ""),
    ]
    blocks: list[Block] = [Picture(figure, caption) for figure, caption in found if figure is not None]
    return Section("Course of the run", tuple(blocks)) if blocks else None


def gradient_sparsity(scope: Scope, log: RunRecord) -> Section | None:
    """Share of near-zero gradients, for the whole network and layer by layer."""
    n, window = scope.evidence.of(log), telling_window(log)
    table = _layer_table(
        scope,
        log,
        window,
        [
            "mean(gradient_sparsity)",
            "mean(gradient_norm)",
            "last(dead_neurons)",
            "mean(gradient_cosine)",
        ],
    )
    if not table.columns:
        return None
    text = (
        f"Of all weight gradients, {n(f'mean(gradient_sparsity){window.range}')} were smaller than "
        f"{scope.evidence.cite('rule: gradient_sparsity.below')} in magnitude; the layer with most of them "
        f"is {n(f'worst_layer(gradient_sparsity){window.range}')}. {_over(scope, log, window)}"
    )
    return Section("Gradient sparsity", (Text(text), table))


def zero_update_regions(scope: Scope, log: RunRecord) -> Section | None:
    """The layers in which weights with a gradient do not move."""
    n = scope.evidence.of(log)
    window = telling_window(log)
    if window.last - window.first + 1 > REGION_STEPS:
        window = Window(window.last - REGION_STEPS + 1, window.last, window.what)
    means = log.layer_means("zero_update_fraction", window.first, window.last)
    if all(mean is None for mean in means):
        return None
    frozen = [
        name for name, mean in zip(log.layers, means, strict=True) if mean is not None and mean >= REGION_FROM
    ]
    threshold = scope.evidence.cite("rule: zero_update_region.from")
    quantity = f"layers_at_least(zero_update_fraction>={RULES['zero_update_region.from']}){window.range}"
    text = (
        f"{n(quantity)} of {n(f'measured_layers(zero_update_fraction){window.range}')} layers are "
        f"zero-update regions over steps {n(f'window{window.range}')}: at least {threshold} of their "
        "weights that had a gradient did not change."
    )
    quantities = ["mean(zero_update_fraction)", "last(zero_update_rows)", "last(persistent_stall_rate)"]
    blocks: list[Block] = [Text(text)]
    if frozen:
        blocks.append(_layer_table(scope, log, window, quantities, frozen))
    return Section("Zero-update regions", tuple(blocks))


def layer_rates(scope: Scope, log: RunRecord) -> Section | None:
    """Stall, overflow and underflow of every layer."""
    window = telling_window(log)
    columns = [
        "mean(bit_stall_rate)",
        "mean(apparent_stall_rate)",
        "mean(update_transfer)",
        *(f"mean(overflow_rate/{role})" for role in OPERAND_ROLES),
        *(f"mean(underflow_rate/{role})" for role in OPERAND_ROLES),
        "mean(zero_share/stored_weights)",
    ]
    table = _layer_table(scope, log, window, columns)
    if not table.columns:
        return None
    letters = "W weights, A activations, G output gradients, M stored weights"
    text = f"{_over(scope, log, window)} Rates are shares; {letters}."
    return Section("Overflow and stall by layer", (Text(text), table))


def code_use(scope: Scope, log: RunRecord) -> Section | None:
    """How much of the format's codes is in use."""
    n, window = scope.evidence.of(log), telling_window(log)
    table = _layer_table(
        scope,
        log,
        window,
        [
            "mean(codes_used/stored_weights)",
            "mean(code_entropy/stored_weights)",
            "mean(zero_share/stored_weights)",
        ],
    )
    drawn = (
        plots.code_map([log], role) for role in ("stored_weights", "gradients", "activations", "weights")
    )
    maps = [figure for figure in drawn if figure is not None][:1]
    blocks: list[Block] = [Picture(figure, "A row is one code, the largest value on top.") for figure in maps]
    if table.columns:
        text = (
            f"Over all layers the stored weights use {n(f'mean(codes_used/stored_weights){window.range}')} "
            "of the format's finite codes, with an entropy of "
            f"{n(f'mean(code_entropy/stored_weights){window.range}')} of what as many equally used codes "
            f"would have. {_over(scope, log, window)}"
        )
        blocks = [Text(text), table, *blocks]
    return Section("Use of the codes", tuple(blocks)) if blocks else None


def diagnostic_trend(scope: Scope, log: RunRecord) -> Section | None:
    """The run's main measures at its last five diagnostic steps."""
    steps = diagnostic_steps(log)
    if not steps:
        return None
    metrics = [
        "loss",
        "validation_loss",
        "gradient_norm",
        "gradient_sparsity",
        "bit_stall_rate",
        "update_transfer",
        "persistent_stall_rate",
        "overflow_rate/gradients",
        "underflow_rate/gradients",
        "gradient_cosine",
        "codes_used/stored_weights",
    ]
    table = make_table(
        scope.evidence,
        "step",
        steps,
        [measured(f"{log.name}: at({metric})@{{}}") for metric in metrics],
    )
    return Section(
        "The last measurements", (Text("Values of the single step, pooled over the layers."), table)
    )


def predicted_stall(scope: Scope, log: RunRecord) -> Section | None:
    """The bit-stall that was to be expected before training, and the one that was measured."""
    if not log.predicted_stall:
        return None
    n = scope.evidence.of(log)
    warmup = int((log.config.get("optimizer") or {}).get("warmup_steps") or 0)
    first = min(warmup + 1, log.last_step)
    last = min(first + int(RULES["stall_collapse.window"]) - 1, log.last_step)
    after = f"@{first}-{last}" if last > first else f"@{first}"
    lines = [
        (
            f"- First step, at a learning rate of {n('predicted_stall.first_learning_rate')}: predicted "
            f"{n('predicted_stall.first_step')}, measured {n('at(bit_stall_rate)@1')}."
        ),
        (
            f"- In the long run, at {n('predicted_stall.learning_rate')}: predicted "
            f"{n('predicted_stall.long_run')} from the initial weights, measured "
            f"{n(f'mean(bit_stall_rate){after}')} over steps {n(f'window{after}')}."
        ),
    ]
    figure = plots.prediction_figure([log])
    blocks: list[Block] = [Text("\n".join(lines))]
    if figure is not None:
        blocks.append(Picture(figure, "A point is one layer at one diagnostic step."))
    return Section("Predicted and measured stall", tuple(blocks))
