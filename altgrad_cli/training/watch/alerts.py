"""Warnings on threshold crossings: raised once, cleared once, and never a reason to stop."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from altgrad_cli.metrics.catalogue import METRICS
from altgrad_cli.metrics.spec import AlertRule

T = TypeVar("T")
State = Literal["raised", "cleared"]

FLAGS = {flag: AlertRule(flag, 0.0, 0.0, clear_steps=1) for flag in ("rising_loss", "divergence")}
"""Fed as 0 and 1 by ``RisingLoss`` and ``Divergence``; no metrics."""
ALERTS: dict[str, AlertRule] = {name: spec.alert for name, spec in METRICS.items() if spec.alert} | FLAGS
"""What is watched, by the metric's name; ``overflow_rate`` also watches ``overflow_rate/gradients``."""


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
    """Follows every watched metric of every layer and reports only what changed.

    Args:
        rules: by the metric's name.
        exposed: layers that are watched by a rule's stricter one, where it has that.
    """

    def __init__(self, rules: Mapping[str, AlertRule] = ALERTS, *, exposed: Collection[str] = ()) -> None:
        self._rules = rules
        self._exposed = frozenset(exposed)
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
            if layer in self._exposed and rule.exposed is not None:
                rule = rule.exposed
            state = self._advance((metric, layer), value, rule)
            if state:
                changes.append(
                    AlertChange(
                        kind=rule.kind,
                        metric=metric,
                        layer=layer,
                        value=value,
                        threshold=rule.above,
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
            if value > rule.above:
                self._raised[key] = 0
                return "raised"
            return None
        quiet = quiet + 1 if value <= rule.clears_at else 0
        self._raised[key] = quiet
        if quiet < rule.clear_steps:
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
