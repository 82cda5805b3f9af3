"""What a source can name of one run: reductions of its metrics over steps, and facts about the run.

``REDUCTIONS`` take a metric in parentheses, over steps and optionally of one layer; ``LAYER_REDUCTIONS`` look
across the layers; ``FACTS`` stand alone. Everything gives None where nothing was measured, and NaN where
anything was NaN: a non-finite value is never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.quantization.precision import REGIME_ROLES, ROLE_LETTERS
from altgrad_cli.reporting.columns import RunLog
from altgrad_cli.reporting.notation import layer_type
from altgrad_cli.reporting.sources import Source

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


def _best(log: RunLog, metric: str) -> tuple[int, float] | None:
    steps, values = series_of(log, metric)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    row = int(np.argmin(np.where(finite, values, np.inf)))
    return int(steps[row]), float(values[row])


def _best_step(log: RunLog, source: Source) -> int | None:
    best = _best(log, source.argument or "validation_loss")
    return best[0] if best else None


def _best_value(log: RunLog, source: Source) -> float | None:
    best = _best(log, source.argument or "validation_loss")
    return best[1] if best else None


def _count(items: list[dict[str, Any]], name: str | None) -> int:
    return sum(name is None or item.get("name") == name for item in items)


def _timeline(log: RunLog, _: Source) -> str | None:
    formats = log.record.formats
    if not formats:
        return log.record.format
    return ", ".join(f"{name} from step {step}" if step else name for step, name in formats)


def _grid(log: RunLog, _: Source) -> str | None:
    return parse_format(log.record.format).describe() if log.record.format else None


def _window(_: RunLog, source: Source) -> str | None:
    if source.first is None:
        return None
    return f"{source.first}" if source.last in (None, source.first) else f"{source.first} to {source.last}"


def _bound_clips(log: RunLog, _: Source) -> int:
    return sum(bool((item.get("details") or {}).get("bound")) for item in log.record.interventions)


def _first_alert(log: RunLog, source: Source) -> int | None:
    raised = (item for item in log.record.alerts if item.get("state") == "raised")
    return next((item["step"] for item in raised if item.get("name") == source.argument), None)


def _alerts_raised(log: RunLog, source: Source) -> int:
    return sum(
        item.get("state") == "raised" and item.get("name") == source.argument for item in log.record.alerts
    )


def _alerting_layers(log: RunLog, source: Source) -> int:
    alerts = log.record.alerts
    return len(
        {item["layer"] for item in alerts if item.get("name") == source.argument and item.get("layer")}
    )


def _layers_in_bf16(log: RunLog, _: Source) -> str | None:
    rules = (log.record.config.get("precision") or {}).get("rules") or ()
    patterns = [rule["pattern"] for rule in rules if str(rule.get("format")).upper() == "BF16"]
    return ", ".join(patterns) or None


def rounded_roles(log: RunLog) -> str:
    """The roles that a run rounds, as letters; with M on, W is the stored grid itself."""
    precision = log.record.config.get("precision") or {}
    roles = precision.get("roles")
    chosen = REGIME_ROLES.get(precision.get("regime", "fp32"), ()) if roles is None else roles
    return "".join(letter for role, letter in ROLE_LETTERS.items() if role in chosen)


def _format_studied(log: RunLog, _: Source) -> str | None:
    return {"fp32": "FP32", "frozen": "FP32", "bf16": "BF16"}.get(log.record.regime or "", log.record.format)


FACTS: dict[str, Callable[[RunLog, Source], Any]] = {
    "step": lambda _, source: source.first,
    "window": _window,
    "format": lambda log, _: log.record.format,
    "format_studied": _format_studied,
    "grid": _grid,
    "roles": lambda log, _: rounded_roles(log) or "none",
    "layers_in_bf16": _layers_in_bf16,
    "formats": _timeline,
    "regime": lambda log, _: log.record.regime,
    "seed": lambda log, _: log.record.seed,
    "steps": lambda log, _: log.last_step,
    "outcome": lambda log, _: log.record.outcome,
    "ended": lambda log, _: (log.record.collapse or {}).get("class") or log.record.outcome,
    "reason": lambda log, _: (log.record.ended or {}).get("reason"),
    "layers": lambda log, _: len(log.layer_names),
    "init_hash": lambda log, _: log.record.started.get("init_hash"),
    "parameters": lambda log, _: log.record.started.get("parameters"),
    "dropped_steps": lambda log, _: len(log.record.dropped_steps),
    "first_dropped_step": lambda log, _: next(iter(log.record.dropped_steps), None),
    "resumptions": lambda log, _: log.record.resumptions,
    "best_step": _best_step,
    "best": _best_value,
    "first_alert": _first_alert,
    "alerts_raised": _alerts_raised,
    "alerting_layers": _alerting_layers,
    "interventions": lambda log, source: _count(log.record.interventions, source.argument),
    "bound_clips": _bound_clips,
    "injections": lambda log, _: ", ".join(log.record.started.get("injections") or ()) or None,
}

MAPPINGS: dict[str, Callable[[RunLog], Mapping[str, Any] | None]] = {
    "config": lambda log: log.record.config,
    "collapse": lambda log: log.record.collapse,
    "corpus": lambda log: log.record.started.get("corpus"),
    "environment": lambda log: log.record.started.get("environment"),
    "predicted_stall": lambda log: log.record.started.get("predicted_stall"),
}
"""``config.learning_rate`` and the like: a key of what the log keeps as a mapping."""


def look_up(log: RunLog, dotted: str) -> Any:
    """The value of ``root.key.key``, None where there is none; UsageError where nothing is called so."""
    root, _, rest = dotted.partition(".")
    if root not in MAPPINGS:
        raise UsageError(f"no quantity is called {dotted!r}", allowed=", ".join(sorted(known_quantities())))
    value: Any = MAPPINGS[root](log)
    for key in rest.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def known_quantities() -> list[str]:
    """Every name that a source of a run may begin with."""
    return [*REDUCTIONS, *LAYER_REDUCTIONS, *FACTS, *(f"{root}.<key>" for root in MAPPINGS)]


def evaluate(log: RunLog, source: Source) -> Any:
    """The value of ``source`` in the run ``log``; quantities that need other runs are the evidence's."""
    if source.quantity in REDUCTIONS:
        return reduce(log, source)
    if source.quantity in LAYER_REDUCTIONS:
        return LAYER_REDUCTIONS[source.quantity](log, source)
    if source.quantity in FACTS:
        return FACTS[source.quantity](log, source)
    return look_up(log, source.quantity)
