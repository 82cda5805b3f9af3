"""One metric: its name, unit and definition, and the formula that turns raw counts into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Row = Mapping[str, float]
"""Raw counts and sums of one layer (or of a pool of layers) by column name."""

Scope = Literal["run", "layer", "layer_role"]
Cadence = Literal["step", "interval", "evaluation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSpec:
    """What a metric means; every table, chart and report reads its words from here."""

    name: str
    """Key in the events; a ``layer_role`` metric is written ``name/role``."""
    unit: str
    definition: str
    scope: Scope
    """``run``: one number; ``layer``: one a layer, and pooled over them; ``layer_role``: also per role."""
    cadence: Cadence
    formula: Callable[[Row], float | None] | None = None
    """Raw counts to value; None where a function of its own computes the value."""


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where nothing was there to count (whole = 0). NaN passes through."""
    return None if whole == 0 else part / whole


def evaluate(specs: Iterable[MetricSpec], row: Row) -> dict[str, float | None]:
    """The value of every metric in ``specs`` that has a formula, by name."""
    return {spec.name: spec.formula(row) for spec in specs if spec.formula is not None}


def pool(
    columns: Sequence[str], rows: Iterable[Sequence[float]], maxima: Sequence[str] = ()
) -> dict[str, float]:
    """Add the rows column by column; the columns named in ``maxima`` take the largest value instead.

    A row whose first column (always the element count) is NaN was not measured and is left out. Any other
    NaN makes its column NaN: it is never skipped. No rows give zeros, so that every rate is None.
    """
    measured = [row for row in rows if not math.isnan(row[0])]
    pooled = {}
    for index, name in enumerate(columns):
        values = [row[index] for row in measured]
        if name not in maxima:
            pooled[name] = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
        elif any(map(math.isnan, values)):
            pooled[name] = math.nan
        else:
            pooled[name] = max(values, default=0.0)
    return pooled
