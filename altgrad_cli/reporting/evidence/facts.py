"""Everything that a source can name of one run: reductions of its metrics, facts, keys of its mappings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import yaml

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS
from altgrad_cli.errors import UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics import thresholds
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.reporting.evidence.reductions import LAYER_REDUCTIONS, REDUCTIONS, reduce
from altgrad_cli.runs.record import CONTROLS, RunRecord
from altgrad_cli.training.events import Alert
from altgrad_cli.training.watch.collapse import onset_words


def _best(log: RunRecord, source: Source) -> tuple[float, int] | None:
    """The lowest finite value of a metric, and its step."""
    series = log.series(source.argument or "validation_loss")
    return min(((value, step) for step, value in series if math.isfinite(value)), default=None)


def _interventions(log: RunRecord, source: Source) -> int:
    return sum(source.argument in (None, item.name) for item in log.interventions)


def _timeline(log: RunRecord, _: Source) -> str | None:
    formats = log.formats
    if not formats:
        return log.format
    return ", ".join(f"{name} from step {step}" if step else name for step, name in formats)


def _window(_: RunRecord, source: Source) -> str | None:
    if source.first is None:
        return None
    return f"{source.first}" if source.last in (None, source.first) else f"{source.first} to {source.last}"


def _bound_clips(log: RunRecord, _: Source) -> int:
    return sum(bool((item.details or {}).get("bound")) for item in log.interventions)


def _raised(log: RunRecord, source: Source) -> list[Alert]:
    return [alert for alert in log.alerts if alert.name == source.argument and alert.state == "raised"]


def _alerting_layers(log: RunRecord, source: Source) -> int:
    return len({alert.layer for alert in log.alerts if alert.name == source.argument and alert.layer})


def _layers_in_bf16(log: RunRecord, _: Source) -> str | None:
    rules = log.precision.get("rules") or ()
    patterns = [rule["pattern"] for rule in rules if str(rule.get("format")).upper() == "BF16"]
    return ", ".join(patterns) or None


def rounded_roles(log: RunRecord) -> str:
    """The roles that a run rounds, as letters; with M on, W is the stored grid itself."""
    precision = log.config.get("precision") or {}
    roles = precision.get("roles")
    chosen = REGIME_ROLES.get(precision.get("regime", "fp32"), ()) if roles is None else roles
    return "".join(letter for role, letter in ROLE_LETTERS.items() if role in chosen)


def studied_format(log: RunRecord) -> str | None:
    """The format that a run is about: its first, or that of its rules where nothing else is rounded."""
    if log.control:
        return "BF16" if log.control == "bf16" else "FP32"
    rules = log.precision.get("rules") or ()
    if log.regime in CONTROLS and rules:
        return str(rules[0].get("format"))
    return log.format


def _rules(log: RunRecord, _: Source) -> str | None:
    """The layers that are exceptions, in words."""
    rules = log.precision.get("rules") or ()
    words = []
    for rule in rules:
        roles = ", ".join(rule.get("roles") or ())
        words.append(f"{rule.get('pattern')} in {rule.get('format')}" + (f" ({roles})" if roles else ""))
    return "; ".join(words) or None


def _onset(log: RunRecord, _: Source) -> str | None:
    """``from the start`` or ``from step 31``: where a collapse began."""
    collapse = log.collapse
    return onset_words(collapse.get("onset", collapse.get("step"))) if collapse else None


FACTS: dict[str, Callable[[RunRecord, Source], object]] = {
    "step": lambda _, source: source.first,
    "window": _window,
    "format": lambda log, _: log.format,
    "format_studied": lambda log, _: studied_format(log),
    "rules": _rules,
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
    "best_step": lambda log, source: best[1] if (best := _best(log, source)) else None,
    "best": lambda log, source: best[0] if (best := _best(log, source)) else None,
    "first_alert": lambda log, source: next((alert.step for alert in _raised(log, source)), None),
    "alerts_raised": lambda log, source: len(_raised(log, source)),
    "alerting_layers": _alerting_layers,
    "interventions": _interventions,
    "bound_clips": _bound_clips,
    "injections": lambda log, _: ", ".join(log.injections) or None,
}

MAPPINGS: dict[str, Callable[[RunRecord], Mapping[str, object] | None]] = {
    "config": lambda log: log.config,
    "collapse": lambda log: log.collapse,
    "corpus": lambda log: log.started.corpus if log.started else None,
    "environment": lambda log: log.started.environment if log.started else None,
    "predicted_stall": lambda log: log.predicted_stall,
}
"""``config.learning_rate`` and the like: a key of what the log keeps as a mapping."""


def look_up(log: RunRecord, dotted: str) -> object:
    """The value of ``root.key.key``, None where there is none; UsageError where nothing is called so."""
    root, _, rest = dotted.partition(".")
    if root not in MAPPINGS:
        raise UsageError(f"no quantity is called {dotted!r}", allowed=", ".join(sorted(known_quantities())))
    value: object = MAPPINGS[root](log)
    for key in rest.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def known_quantities() -> list[str]:
    """Every name that a source of a run may begin with."""
    return [*REDUCTIONS, *LAYER_REDUCTIONS, *FACTS, *(f"{root}.<key>" for root in MAPPINGS)]


def evaluate(log: RunRecord, source: Source) -> object:
    """The value of ``source`` in the run ``log``; quantities that need other runs are the evidence's."""
    if source.quantity in REDUCTIONS:
        return reduce(log, source)
    if source.quantity in LAYER_REDUCTIONS:
        return LAYER_REDUCTIONS[source.quantity](log, source)
    if source.quantity in FACTS:
        return FACTS[source.quantity](log, source)
    return look_up(log, source.quantity)


def configuration_text(log: RunRecord) -> str:
    """The resolved configuration of a run as YAML, in the order of its keys."""
    return yaml.safe_dump(dict(log.config), sort_keys=False, allow_unicode=True, width=100).rstrip()


TEXTS = {"configuration": configuration_text}
"""By the word that follows the run in the source of a verbatim block."""

RULES: dict[str, float | int] = {
    "trained.from": thresholds.TRAINED_FROM,
    "failed.below": thresholds.FAILED_BELOW,
    "borderline.width": thresholds.EDGE_WIDTH,
    "seed.spread": thresholds.SEED_SPREAD,
    "ends.apart": thresholds.ENDS_APART_FROM,
    "underflowed.from": thresholds.UNDERFLOWED_FROM,
    "saturated.from": thresholds.SATURATED_FROM,
    "stall.from": thresholds.STALL_FROM,
    "stalled.up_to": thresholds.STALLED_UP_TO,
    "slowed.up_to": thresholds.SLOWED_UP_TO,
    "stall_collapse.transfer": thresholds.COLLAPSE_TRANSFER,
    "stall_collapse.stall": thresholds.COLLAPSE_STALL,
    "stall_collapse.window": thresholds.COLLAPSE_WINDOW,
    "end.window": thresholds.END_WINDOW,
    "gradient_sparsity.below": thresholds.DEAD_GRADIENT,
    "zero_update_region.from": thresholds.REGION_FROM,
    "zero_update_region.window": thresholds.REGION_STEPS,
}
"""The constants of the definitions that a report quotes, by the name its sources use."""
