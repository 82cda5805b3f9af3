"""Facts about a run, by the names that sources use: what stands in its log beside the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS
from altgrad_cli.formats import parse_format
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.reductions import series_of
from altgrad_cli.sweeps.arms import CONTROLS
from altgrad_cli.training.watch.collapse import onset_words


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


def studied_format(log: RunLog) -> str | None:
    """The format that a run is about: its first, or that of its rules where nothing else is rounded."""
    if log.control:
        return "BF16" if log.control == "bf16" else "FP32"
    rules = (log.record.config.get("precision") or {}).get("rules") or ()
    if log.record.regime in CONTROLS and rules:
        return str(rules[0].get("format"))
    return log.record.format


def _rules(log: RunLog, _: Source) -> str | None:
    """The layers that are exceptions, in words."""
    rules = (log.record.config.get("precision") or {}).get("rules") or ()
    words = []
    for rule in rules:
        roles = ", ".join(rule.get("roles") or ())
        words.append(f"{rule.get('pattern')} in {rule.get('format')}" + (f" ({roles})" if roles else ""))
    return "; ".join(words) or None


def _onset(log: RunLog, _: Source) -> str | None:
    """``from the start`` or ``from step 31``: where a collapse began."""
    collapse = log.record.collapse
    return onset_words(collapse.get("onset", collapse.get("step"))) if collapse else None


FACTS: dict[str, Callable[[RunLog, Source], Any]] = {
    "step": lambda _, source: source.first,
    "window": _window,
    "format": lambda log, _: log.record.format,
    "format_studied": lambda log, _: studied_format(log),
    "rules": _rules,
    "grid": _grid,
    "roles": lambda log, _: rounded_roles(log) or "none",
    "layers_in_bf16": _layers_in_bf16,
    "formats": _timeline,
    "regime": lambda log, _: log.record.regime,
    "seed": lambda log, _: log.record.seed,
    "steps": lambda log, _: log.last_step,
    "onset": _onset,
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
