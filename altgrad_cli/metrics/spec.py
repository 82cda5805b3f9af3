"""One metric: name, unit, definition, how layers are pooled, which side is bad, from where it warns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Row = Mapping[str, float]
"""Raw counts and sums of one layer (or of a pool of layers) by column name."""

Formula = Callable[[Row], float | None]
"""Raw counts to value."""
Scope = Literal["run", "layer", "layer_role"]
Pooling = Literal["counts", "sum", "max", "layers", "weights"]
Side = Literal["high", "low"]


@dataclass(frozen=True, slots=True)
class AlertRule:
    """The level above which a metric warns, and the one at which it has recovered.

    The gap between the two, and the steps it has to stay below, keep a rate that hovers at the threshold
    from raising an alert at every step.
    """

    kind: str
    """What the events call it."""
    above: float
    clears_at: float
    clear_steps: int = 5
    """Steps in a row, of those that measured it, at or below ``clears_at`` that clear the alert."""
    exposed: AlertRule | None = None
    """The stricter rule of layers that no normalisation feeds: in the GPT ``c_proj`` and ``lm_head``."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric means: tables take their heading from here, alerts and lead times their limits."""

    name: str
    """Key in the events; a ``layer_role`` metric is written ``name/role``."""
    definition: str
    unit: str = "fraction"
    formula: Formula | None = None
    """None where a function of its own computes the value."""
    heading: str | None = None
    """Above a column of a table; None: the name."""
    scope: Scope = "layer"
    """``run``: one number; ``layer``: one a layer, and pooled over them; ``layer_role``: also per role."""
    pooling: Pooling = "counts"
    """How layers make the run's value: from their added counts, or from their values, by the way it names."""
    bad: Side | None = None
    """The side on which a run is in trouble; None where neither is."""
    alert: AlertRule | None = None
    by_layer: bool = False
    """Whether reports read it layer by layer; the others they take of the whole run only."""


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where nothing was there to count (whole = 0). NaN passes through."""
    return None if whole == 0 else part / whole


def share(part: str, whole: str) -> Formula:
    """The formula of one column over another; None where there is nothing of the whole."""
    return lambda row: ratio(row[part], row[whole])


def evaluate(specs: Iterable[MetricSpec], row: Row) -> dict[str, float | None]:
    """The value of every metric in ``specs`` that has a formula, by name."""
    return {spec.name: spec.formula(row) for spec in specs if spec.formula is not None}
