"""Reductions of a run's metrics over steps and layers, by the names that sources use.

``REDUCTIONS`` take a metric in parentheses, over steps and optionally of one layer; ``LAYER_REDUCTIONS`` look
across the layers. Everything gives None where nothing was measured, and NaN where anything was NaN: a
non-finite value is never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.reporting.blocks.notation import layer_type
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.reporting.evidence.columns import RunLog

Values = NDArray[np.float64]

REDUCTIONS: dict[str, Callable[[Values], float]] = {
    "at": lambda values: float(values[-1]),
    "last": lambda values: float(values[-1]),
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
    "max": lambda values: float(values.max()),
    "min": lambda values: float(values.min()),
    "sum": lambda values: float(values.sum()),
}


def reduce(log: RunLog, source: Source) -> float | None:
    """The reduction that ``source`` names, over the steps at which its metric was measured."""
    values = _values_of(log, source)
    return REDUCTIONS[source.quantity](values) if len(values) else None


def _values_of(log: RunLog, source: Source) -> Values:
    metric = source.argument or ""
    if source.layer is not None:
        column = log.layers.get(metric)
        if column is None or source.layer not in log.layer_names:
            return np.empty(0)
        rows, layer = _rows(log, source), log.layer_names.index(source.layer)
        return column.values[rows, layer][column.measured[rows, layer]]
    steps, values = series_of(log, metric)
    if source.first is None:
        return values
    return values[(steps >= source.first) & (steps <= (source.last or source.first))]


def series_of(log: RunLog, metric: str) -> tuple[NDArray[np.int64], Values]:
    """Steps and values of a metric of the whole run, where it was measured; both empty where it never was."""
    record = log.record
    special = {"validation_loss": record.validation, "validation_loss_master": record.validation_master}
    series = special.get(metric) or record.metrics.get(metric)
    if series is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    return np.array(series.steps, dtype=np.int64), np.array(series.values)


def _rows(log: RunLog, source: Source) -> slice:
    if source.first is None:
        return slice(None)
    return log.rows_between(source.first, source.last or source.first)


def layer_means(
    log: RunLog, metric: str, first: int | None = None, last: int | None = None
) -> list[float | None]:
    """The mean of ``metric`` over the steps, for each layer; None where it was not measured."""
    column = log.layers.get(metric)
    if column is None:
        return [None] * len(log.layer_names)
    rows = slice(None) if first is None else log.rows_between(first, last or first)
    values, measured = column.values[rows], column.measured[rows]
    counts = measured.sum(axis=0)
    sums = np.where(measured, values, 0.0).sum(axis=0)
    return [float(total / n) if n else None for total, n in zip(sums, counts, strict=True)]


def ranked_layers(log: RunLog, metric: str, first: int | None = None, last: int | None = None) -> list[str]:
    """The layers in which ``metric`` was measured, largest mean first; NaN counts as largest of all."""
    means = zip(log.layer_names, layer_means(log, metric, first, last), strict=True)
    measured = [(name, mean) for name, mean in means if mean is not None]
    ranked = sorted(measured, key=lambda item: -math.inf if math.isnan(item[1]) else -item[1])
    return [name for name, _ in ranked]


def _worst_layer(log: RunLog, source: Source) -> str | None:
    """The layer with the largest mean; ``metric#2`` is the one after it."""
    metric, _, place = (source.argument or "").partition("#")
    ranked = ranked_layers(log, metric, source.first, source.last)
    index = int(place or 1) - 1
    return ranked[index] if index < len(ranked) else None


def _layers_at_least(log: RunLog, source: Source) -> int | None:
    metric, _, threshold = (source.argument or "").partition(">=")
    means = [mean for mean in layer_means(log, metric, source.first, source.last) if mean is not None]
    return sum(mean >= float(threshold) for mean in means) if means else None


def _measured_layers(log: RunLog, source: Source) -> int:
    return sum(
        mean is not None for mean in layer_means(log, source.argument or "", source.first, source.last)
    )


def _type_mean(log: RunLog, source: Source) -> float | None:
    """Mean over the steps and over the layers of the kind that ``[...]`` names."""
    means = layer_means(log, source.argument or "", source.first, source.last)
    chosen = [
        mean
        for name, mean in zip(log.layer_names, means, strict=True)
        if mean is not None and layer_type(name) == source.layer
    ]
    return sum(chosen) / len(chosen) if chosen else None


def _end(log: RunLog, source: Source) -> float | None:
    return log.record.end(source.argument or "")


def _worst_role(log: RunLog, source: Source) -> float | None:
    return log.record.worst_role(source.argument or "")


LAYER_REDUCTIONS: dict[str, Callable[[RunLog, Source], Any]] = {
    "worst_layer": _worst_layer,
    "layers_at_least": _layers_at_least,
    "measured_layers": _measured_layers,
    "type_mean": _type_mean,
    "end": _end,
    "worst_role": _worst_role,
}
"""Across the layers, each by its mean over the steps, and across roles; ``end`` is over the last steps."""
