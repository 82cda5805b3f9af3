"""Reductions of a run's metrics over steps and layers, by the names that sources use.

``REDUCTIONS`` take a metric in parentheses, over steps and optionally of one layer; ``LAYER_REDUCTIONS`` look
across the layers. Everything gives None where nothing was measured, and NaN where anything was NaN: a
non-finite value is never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from altgrad_cli.notation import layer_type
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.runs.series import Floats

REDUCTIONS: dict[str, Callable[[Floats], float]] = {
    "at": lambda values: float(values[-1]),
    "last": lambda values: float(values[-1]),
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
    "max": lambda values: float(values.max()),
    "min": lambda values: float(values.min()),
    "sum": lambda values: float(values.sum()),
}


def reduce(log: RunRecord, source: Source) -> float | None:
    """The reduction that ``source`` names, over the steps at which its metric was measured."""
    values = _values_of(log, source)
    return REDUCTIONS[source.quantity](values) if len(values) else None


def _values_of(log: RunRecord, source: Source) -> Floats:
    metric = source.argument or ""
    if source.layer is not None:
        column = log.layer_metrics.get(metric)
        if column is None or source.layer not in log.layers:
            return np.empty(0)
        rows, layer = _rows(log, source), log.layers.index(source.layer)
        return column.values[rows, layer][column.measured[rows, layer]]
    series = log.series(metric)
    if source.first is None:
        return series.values
    return series.values[(series.steps >= source.first) & (series.steps <= (source.last or source.first))]


def _rows(log: RunRecord, source: Source) -> slice:
    if source.first is None:
        return slice(None)
    return log.rows_between(source.first, source.last or source.first)


def ranked_layers(
    log: RunRecord, metric: str, first: int | None = None, last: int | None = None
) -> list[str]:
    """The layers in which ``metric`` was measured, largest mean first; NaN counts as largest of all."""
    means = zip(log.layers, log.layer_means(metric, first, last), strict=True)
    measured = [(name, mean) for name, mean in means if mean is not None]
    ranked = sorted(measured, key=lambda item: -math.inf if math.isnan(item[1]) else -item[1])
    return [name for name, _ in ranked]


def _worst_layer(log: RunRecord, source: Source) -> str | None:
    """The layer with the largest mean; ``metric#2`` is the one after it."""
    metric, _, place = (source.argument or "").partition("#")
    ranked = ranked_layers(log, metric, source.first, source.last)
    index = int(place or 1) - 1
    return ranked[index] if index < len(ranked) else None


def _layers_at_least(log: RunRecord, source: Source) -> int | None:
    metric, _, threshold = (source.argument or "").partition(">=")
    means = [mean for mean in log.layer_means(metric, source.first, source.last) if mean is not None]
    return sum(mean >= float(threshold) for mean in means) if means else None


def _measured_layers(log: RunRecord, source: Source) -> int:
    return sum(mean is not None for mean in log.layer_means(source.argument or "", source.first, source.last))


def _type_mean(log: RunRecord, source: Source) -> float | None:
    """Mean over the steps and over the layers of the kind that ``[...]`` names."""
    means = log.layer_means(source.argument or "", source.first, source.last)
    chosen = [
        mean
        for name, mean in zip(log.layers, means, strict=True)
        if mean is not None and layer_type(name) == source.layer
    ]
    return sum(chosen) / len(chosen) if chosen else None


LAYER_REDUCTIONS: dict[str, Callable[[RunRecord, Source], object]] = {
    "worst_layer": _worst_layer,
    "layers_at_least": _layers_at_least,
    "measured_layers": _measured_layers,
    "type_mean": _type_mean,
    "end": lambda log, source: log.end(source.argument or ""),
    "worst_role": lambda log, source: log.worst_role(source.argument or ""),
}
"""Across the layers, each by its mean over the steps, and across roles; ``end`` is over the last steps."""
