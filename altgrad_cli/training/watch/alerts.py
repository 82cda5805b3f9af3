"""Warnings on threshold crossings: raised once, cleared once, and never a reason to stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")
State = Literal["raised", "cleared"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """A metric that warns above ``threshold`` and recovers below ``recovery``.

    The gap between the two, and the steps it has to stay below, keep a rate that hovers at the threshold
    from raising an alert at every step.
    """

    kind: str
    metric: str
    """Metric name without role; ``overflow_rate`` also watches ``overflow_rate/gradients``."""
    threshold: float
    recovery: float
    recovery_steps: int = 5
    """Steps in a row at or below ``recovery`` that clear the alert."""


ALERT_RULES: tuple[AlertRule, ...] = (
    AlertRule(kind="overflow", metric="overflow_rate", threshold=0.01, recovery=0.008),
    AlertRule(kind="underflow", metric="underflow_rate", threshold=0.01, recovery=0.008),
    AlertRule(kind="stall", metric="bit_stall_rate", threshold=0.5, recovery=0.4),
    AlertRule(kind="dead_neurons", metric="dead_neurons", threshold=0.0, recovery=0.0),
    AlertRule(kind="rising_loss", metric="rising_loss", threshold=0.0, recovery=0.0, recovery_steps=1),
    AlertRule(kind="divergence", metric="divergence", threshold=0.0, recovery=0.0, recovery_steps=1),
)
"""The study's thresholds. The last two are flags fed as 0 and 1 (``RisingLoss``, ``Divergence``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertChange:
    """An alert that was raised or cleared in this step."""

    kind: str
    metric: str
    """Key of the metric, role included."""
    layer: str | None
    """None for a value pooled over the layers."""
    value: float
    threshold: float
    state: State


class Alerts:
    """Follows every watched metric of every layer and reports only what changed."""

    def __init__(self, rules: Iterable[AlertRule] = ALERT_RULES) -> None:
        self._rules = {rule.metric: rule for rule in rules}
        # (metric key, layer) of a raised alert -> steps in a row it has been below its recovery level
        self._raised: dict[tuple[str, str | None], int] = {}

    def update(self, values: Mapping[str, float | None], layer: str | None = None) -> list[AlertChange]:
        """Take in one step's metrics of one layer (None: pooled); the alerts raised or cleared by it.

        A value of None (not measured) or NaN changes nothing.
        """
        changes = []
        for metric, value in values.items():
            rule = self._rules.get(metric.partition("/")[0])
            if rule is None or value is None or math.isnan(value):
                continue
            state = self._advance((metric, layer), value, rule)
            if state:
                changes.append(
                    AlertChange(
                        kind=rule.kind,
                        metric=metric,
                        layer=layer,
                        value=value,
                        threshold=rule.threshold,
                        state=state,
                    )
                )
        return changes

    def watched(self, values: Mapping[str, T]) -> dict[str, T]:
        """The entries whose metric has a rule."""
        return {metric: value for metric, value in values.items() if metric.partition("/")[0] in self._rules}

    def _advance(self, key: tuple[str, str | None], value: float, rule: AlertRule) -> State | None:
        quiet = self._raised.get(key)
        if quiet is None:
            if value > rule.threshold:
                self._raised[key] = 0
                return "raised"
            return None
        quiet = quiet + 1 if value <= rule.recovery else 0
        self._raised[key] = quiet
        if quiet < rule.recovery_steps:
            return None
        del self._raised[key]
        return "cleared"

    @property
    def active(self) -> tuple[tuple[str, str | None], ...]:
        """(metric key, layer) of every alert that is up now."""
        return tuple(self._raised)

    def state_dict(self) -> dict[str, Any]:
        return {"raised": [[metric, layer, quiet] for (metric, layer), quiet in self._raised.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._raised = {(metric, layer): int(quiet) for metric, layer, quiet in state["raised"]}
