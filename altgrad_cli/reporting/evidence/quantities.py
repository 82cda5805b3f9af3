"""Everything that a source can name of one run: its metrics reduced, facts, keys of its mappings.

Everything gives None where nothing was measured, and NaN where anything was NaN: a non-finite value is never
averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS
from altgrad_cli.errors import UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics import thresholds
from altgrad_cli.metrics.catalogue import heading_of, spec_of
from altgrad_cli.notation import layer_type
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.runs.record import CONTROLS, RunRecord
from altgrad_cli.runs.series import Floats
from altgrad_cli.surgery.precision_plan import recipe_for
from altgrad_cli.training.events import Alert
from altgrad_cli.training.watch.collapse import onset_words

RULES: dict[str, float] = {
    "trained.from": thresholds.TRAINED_FROM,
    "failed.below": thresholds.FAILED_BELOW,
    "borderline.width": thresholds.EDGE_WIDTH,
    "seed.spread": thresholds.SEED_SPREAD,
    "ends.apart": thresholds.ENDS_APART_FROM,
    "ends.apart.labels": thresholds.ENDS_APART_FROM_LABELS,
    "underflowed.from": thresholds.UNDERFLOWED_FROM,
    "saturated.from": thresholds.SATURATED_FROM,
    "stall.from": thresholds.STALL_FROM,
    "stalled.up_to": thresholds.STALLED_UP_TO,
    "end.window": thresholds.END_WINDOW,
    "gradient_sparsity.below": thresholds.DEAD_GRADIENT,
    "zero_update_region.from": thresholds.REGION_FROM,
}
"""The constants of the definitions that a report quotes, by the name its sources use."""

_REDUCTIONS: dict[str, Callable[[Floats], object]] = {
    "at": lambda values: values[-1],
    "last": lambda values: values[-1],
    "mean": np.mean,
    "median": np.median,
    "max": np.max,
    "min": np.min,
    "sum": np.sum,
}
"""Over steps, of the metric in parentheses."""


def _values_of(log: RunRecord, source: Source) -> Floats:
    metric, last = source.argument or "", source.last or source.first or 0
    if source.layer is not None:
        column = log.layer_metrics.get(metric)
        if column is None or source.layer not in log.layers:
            return np.empty(0)
        rows = slice(None) if source.first is None else log.rows_between(source.first, last)
        layer = log.layers.index(source.layer)
        return column.values[rows, layer][column.measured[rows, layer]]
    series = log.series(metric)
    if source.first is None:
        return series.values
    return series.values[(series.steps >= source.first) & (series.steps <= last)]


def _layer_means(log: RunRecord, metric: str | None, first: int | None, last: int | None) -> dict[str, float]:
    """By layer, where it was measured."""
    means = zip(log.layers, log.layer_means(metric or "", first, last), strict=True)
    return {name: mean for name, mean in means if mean is not None}


def ranked_layers(
    log: RunRecord, metric: str, first: int | None = None, last: int | None = None
) -> list[str]:
    """The layers in which ``metric`` was measured, largest mean first; NaN counts as largest of all."""
    means = _layer_means(log, metric, first, last)
    return sorted(means, key=lambda name: -math.inf if math.isnan(means[name]) else -means[name])


def _worst_layer(log: RunRecord, source: Source) -> str | None:
    """The layer with the largest mean; ``metric#2`` is the one after it."""
    metric, _, place = (source.argument or "").partition("#")
    ranked = ranked_layers(log, metric, source.first, source.last)
    return dict(enumerate(ranked, start=1)).get(int(place or 1))


def _layers_at_least(log: RunRecord, source: Source) -> int | None:
    metric, _, threshold = (source.argument or "").partition(">=")
    means = _layer_means(log, metric, source.first, source.last).values()
    return sum(mean >= float(threshold) for mean in means) if means else None


def _type_mean(log: RunRecord, source: Source) -> float | None:
    """Mean over the steps and over the layers of the kind that ``[...]`` names."""
    means = _layer_means(log, source.argument, source.first, source.last)
    chosen = [mean for name, mean in means.items() if layer_type(name) == source.layer]
    return sum(chosen) / len(chosen) if chosen else None


def _best(log: RunRecord, source: Source) -> tuple[float | None, int | None]:
    """The lowest finite value of a metric, and its step."""
    series = log.series(source.argument or "validation_loss")
    finite = ((value, step) for step, value in series if math.isfinite(value))
    return min(finite, default=(None, None))


def _timeline(log: RunRecord, _: Source) -> str | None:
    formats = (f"{name} from step {step}" if step else name for step, name in log.formats)
    return ", ".join(formats) or log.format


def _window(_: RunRecord, source: Source) -> str | None:
    if source.first is None:
        return None
    return f"{source.first}" if source.last in (None, source.first) else f"{source.first} to {source.last}"


def _raised(log: RunRecord, source: Source) -> list[Alert]:
    return [alert for alert in log.alerts if alert.name == source.argument and alert.state == "raised"]


def _rules(log: RunRecord) -> Sequence[Mapping[str, Any]]:
    return log.precision.get("rules") or ()


def _exceptions(log: RunRecord, _: Source) -> str | None:
    """The layers that are exceptions, in words."""
    words = []
    for rule in _rules(log):
        roles = f" ({', '.join(rule['roles'])})" if rule.get("roles") else ""
        parts = {"activations": rule.get("activation_format"), "gradients": rule.get("gradient_format")}
        apart = "".join(f", {role} in {name}" for role, name in parts.items() if name)
        words.append(f"{rule.get('pattern')} in {rule.get('format') or log.format}{apart}{roles}")
    return "; ".join(words) or None


def _layers_in_bf16(log: RunRecord, _: Source) -> str | None:
    patterns = (str(rule["pattern"]) for rule in _rules(log) if str(rule.get("format")).upper() == "BF16")
    return ", ".join(patterns) or None


def rounded_roles(log: RunRecord) -> str:
    """The roles that a run rounds, as letters; with M on, W is the stored grid itself."""
    roles = log.precision.get("roles")
    if roles is None:
        roles = next((chosen for regime, chosen in REGIME_ROLES.items() if regime == log.regime), ())
    return "".join(letter for role, letter in ROLE_LETTERS.items() if role in roles)


def studied_format(log: RunRecord) -> str | None:
    """The format that a run is about: its first, or that of its rules where nothing else is rounded."""
    if log.control:
        return "BF16" if log.control == "bf16" else "FP32"
    if log.regime in CONTROLS and log.has_rules:
        return str(_rules(log)[0].get("format") or ("BF16" if log.regime == "bf16" else log.format))
    return log.format


def _onset(log: RunRecord, _: Source) -> str | None:
    """``from the start`` or ``from step 31``: where a collapse began."""
    collapse = log.collapse
    return onset_words(collapse.get("onset", collapse.get("step"))) if collapse else None


def _scaling(log: RunRecord, _: Source) -> str | None:
    """How the scales of the run's format come about, which for blocks is not what the configuration asks."""
    asked = (log.precision.get("scaling") or {}).get("recipe")
    return recipe_for(parse_format(log.format), asked) if asked and log.format else asked


_FACTS: dict[str, Callable[[RunRecord, Source], object]] = {
    "worst_layer": _worst_layer,
    "layers_at_least": _layers_at_least,
    "measured_layers": lambda log, source: len(_layer_means(log, source.argument, source.first, source.last)),
    "type_mean": _type_mean,
    "end": lambda log, source: log.end(source.argument or ""),
    "worst_role": lambda log, source: log.worst_role(source.argument or ""),
    "step": lambda _, source: source.first,
    "window": _window,
    "format": lambda log, _: log.format,
    "format_studied": lambda log, _: studied_format(log),
    "rules": _exceptions,
    "scaling": _scaling,
    "grid": lambda log, _: parse_format(log.format).describe() if log.format else None,
    "roles": lambda log, _: rounded_roles(log) or "none",
    "layers_in_bf16": _layers_in_bf16,
    "formats": _timeline,
    "regime": lambda log, _: log.regime,
    "seed": lambda log, _: log.seed,
    "steps": lambda log, _: log.last_step,
    "onset": _onset,
    "reason": lambda log, _: log.ended.reason if log.ended else None,
    "layers": lambda log, _: len(log.layers),
    "init_hash": lambda log, _: log.started.init_hash if log.started else None,
    "parameters": lambda log, _: log.started.parameters if log.started else None,
    "dropped_steps": lambda log, _: len(log.dropped_steps),
    "first_dropped_step": lambda log, _: next(iter(log.dropped_steps), None),
    "resumptions": lambda log, _: log.resumptions,
    "best_step": lambda log, source: _best(log, source)[1],
    "best": lambda log, source: _best(log, source)[0],
    "first_alert": lambda log, source: next((alert.step for alert in _raised(log, source)), None),
    "alerts_raised": lambda log, source: len(_raised(log, source)),
    "alerting_layers": lambda log, source: len(
        {alert.layer for alert in log.alerts if alert.name == source.argument and alert.layer}
    ),
    "interventions": lambda log, source: sum(
        source.argument in (None, item.name) for item in log.interventions
    ),
    "bound_clips": lambda log, _: sum(bool((item.details or {}).get("bound")) for item in log.interventions),
    "injections": lambda log, _: ", ".join(log.injections) or None,
}
"""By name; a metric, an alert or an intervention in parentheses. Layers by their mean over the steps."""

_MAPPINGS: dict[str, Callable[[RunRecord], Mapping[str, object] | None]] = {
    "config": lambda log: log.config,
    "collapse": lambda log: log.collapse,
    "corpus": lambda log: log.started.corpus if log.started else None,
    "environment": lambda log: log.started.environment if log.started else None,
    "predicted_stall": lambda log: log.predicted_stall,
    "coverage": lambda log: log.coverage,
}
"""``config.learning_rate`` and the like: a key of what the log keeps as a mapping."""

_HEADINGS = {
    "format_studied": "format",
    "grade": "verdict",
    "collapse.detected": "detected",
    "recovered_fraction.step": "at step",
    "roles": "roles rounded",
    "config.precision.rounding": "rounding",
    "config.precision.scaling.recipe": "scaling",
    "interventions(emergency_shift)": "shifts",
    "interventions(range_clip)": "clips",
    "bound_clips": "clips that bound",
    "layers_in_bf16": "layers in BF16",
    "first_alert({})": "first at step",
    "alerts_raised({})": "times raised",
    "alerting_layers({})": "layers",
    "number": "seeds",
}


def heading(quantity: str) -> str:
    """What stands above a column of ``quantity``: a metric's heading, or words for a fact."""
    if quantity in _HEADINGS:
        return _HEADINGS[quantity]
    metric = quantity.partition("(")[2].partition(")")[0] or quantity
    return heading_of(metric) if spec_of(metric) else quantity.replace("_", " ")


def evaluate(log: RunRecord, source: Source) -> object:
    """The value of ``source`` in the run ``log``, None where there is none.

    Raises:
        UsageError: nothing of a run is called so.
    """
    name = source.quantity
    if name in _REDUCTIONS:
        values = _values_of(log, source)
        return _REDUCTIONS[name](values) if len(values) else None
    if name in _FACTS:
        return _FACTS[name](log, source)
    root, *keys = name.split(".")
    if root not in _MAPPINGS:
        known = [*_REDUCTIONS, *_FACTS, *(f"{mapping}.<key>" for mapping in _MAPPINGS)]
        raise UsageError(f"no quantity is called {name!r}", allowed=", ".join(sorted(known)))
    value: object = _MAPPINGS[root](log)
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def configuration_text(log: RunRecord) -> str:
    """The resolved configuration of a run as YAML, in the order of its keys."""
    return yaml.safe_dump(dict(log.config), sort_keys=False, allow_unicode=True, width=100).rstrip()


TEXTS = {"configuration": configuration_text}
"""By the word that follows the run in the source of a verbatim block."""
