"""From raw counts on the device to named metrics on the host, with one read per phase of the step.

The functions of ``metrics`` leave their counts on the device; here they are joined, read once, and
evaluated into {name: value} for the run and {name: [value per layer]} for the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch

from altgrad_cli.config.precision import ROLES, Role
from altgrad_cli.config.run import MonitorConfig
from altgrad_cli.errors import ConfigError, nearest
from altgrad_cli.metrics.catalogue import METRICS
from altgrad_cli.metrics.gradient import (
    GRADIENT_COLUMNS,
    GRADIENT_MAXIMA,
    GRADIENT_METRICS,
    SHADOW_COLUMNS,
    SHADOW_METRICS,
    measure_gradients,
    measure_shadow,
)
from altgrad_cli.metrics.persistence import DeadNeurons
from altgrad_cli.metrics.rounding import ROUNDING_MAXIMA, ROUNDING_METRICS
from altgrad_cli.metrics.spec import MetricSpec, evaluate
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.training.measuring.reduce import OperandCounts, Table, pool, read_tables
from altgrad_cli.training.passes.eager import PassResult
from altgrad_cli.training.state import TrainState
from altgrad_cli.updates.flat import largest_magnitude

Value = float | None


@dataclass(slots=True)
class Measurements:
    """What one step showed: run-wide metrics and per-layer lists, by the names of the catalogue."""

    metrics: dict[str, Value] = field(default_factory=dict)
    layers: dict[str, list[Value]] = field(default_factory=dict)

    def add(
        self,
        specs: Sequence[MetricSpec],
        pooled: Mapping[str, float],
        rows: Sequence[Mapping[str, float] | None],
        suffix: str = "",
    ) -> None:
        """Evaluate ``specs`` for the pool and for every layer's row; None marks a layer without one."""
        for name, value in evaluate(specs, pooled).items():
            self.metrics[name + suffix] = value
        per_layer = [{} if row is None else evaluate(specs, row) for row in rows]
        for spec in specs:
            if spec.formula is not None:
                self.layers[spec.name + suffix] = [values.get(spec.name) for values in per_layer]

    def add_rounding(self, rows: Table, suffix: str) -> None:
        """The counters of one role, a row a layer; NaN rows (nothing was rounded there) are not measured."""
        measured = [
            None if math.isnan(row[STATS.index("count")]) else dict(zip(STATS, row, strict=True))
            for row in rows
        ]
        if any(measured):
            self.add(ROUNDING_METRICS, pool(STATS, rows, ROUNDING_MAXIMA), measured, suffix)

    def put_layers(self, name: str, values: Mapping[int, Value], layer_count: int) -> None:
        """Values of some layers by index; the others stay null."""
        self.layers[name] = [values.get(index) for index in range(layer_count)]

    def restricted(self, monitors: MonitorConfig, step: int, names: Sequence[str]) -> Measurements:
        """Only what the windows of the config let through at ``step``."""
        if not monitors.windows:
            return self
        kept = Measurements()
        for name in dict.fromkeys((*self.metrics, *self.layers)):  # in order: a log is the same twice
            rule = next((w for w in monitors.windows if fnmatchcase(name, w.metric)), None)
            if rule is not None:
                late = rule.end is not None and step > rule.end
                if step < rule.start or late or (step - rule.start) % rule.interval:
                    continue
            if name in self.metrics:
                kept.metrics[name] = self.metrics[name]
            if name in self.layers:
                values = self.layers[name]
                if rule is not None:
                    values = [
                        v if fnmatchcase(n, rule.layers) else None for n, v in zip(names, values, strict=True)
                    ]
                kept.layers[name] = values
        return kept


def check_windows(monitors: MonitorConfig, layer_names: Sequence[str]) -> None:
    """See that every window can match something.

    Raises:
        ConfigError: its pattern matches no layer, or no metric there is.
    """
    metrics = [key for name in METRICS for key in (name, *(f"{name}/{role}" for role in ROLES))]
    for window in monitors.windows:
        for pattern, known, kind in (
            (window.metric, metrics, "metric"),
            (window.layers, layer_names, "layer"),
        ):
            if not any(fnmatchcase(name, pattern) for name in known):
                close = nearest(pattern, known)
                raise ConfigError(
                    f"the pattern {pattern!r} matches no {kind}",
                    where="monitors.windows",
                    allowed=", ".join(METRICS if kind == "metric" else layer_names),
                    hint=f"did you mean {close!r}?" if close else None,
                )


class PassSummary(NamedTuple):
    """The pass as the host sees it, before anything is decided."""

    loss: float
    gradient_linf: float
    """Largest |gradient| over all parameters; NaN or inf where not finite."""
    amax: list[list[float]]
    """Per layer and operand role; NaN where nothing was rounded."""
    nonfinite: dict[tuple[int, Role], int]
    """Non-finite values that entered a rounding, by (layer, role); only places that had any."""
    overflow_rate: float
    """Largest overflow rate of any layer and role; what the range clipper is told."""
    measured: Measurements

    @property
    def finite(self) -> bool:
        """Whether loss, gradient and every quantiser input are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_linf) and not self.nonfinite


def read_pass(
    state: TrainState,
    result: PassResult,
    shadow: PassResult | None = None,
    dead: DeadNeurons | None = None,
) -> PassSummary:
    """Join and read everything the forward and backward pass left on the device.

    ``dead``, advanced by this step, knows where all parameters lie. None reads only what training itself
    needs: loss, gradient maximum, amax and non-finite counts.
    """
    layer_count = len(state.layers)
    assert result.stats is not None
    tables = [
        torch.stack((result.loss, largest_magnitude(result.gradient))).view(1, 2),
        result.stats.view(-1, len(STATS)),
    ]
    if dead is not None:
        gradients, row_maxima = measure_gradients(dead.layout, result.gradient)
        tables += [gradients, dead.advance(row_maxima).view(-1, 1)]
        if shadow is not None:
            tables.append(measure_shadow(dead.layout, result.gradient, shadow.gradient))
    read = read_tables(tables)
    (loss, linf), counts = read[0][0], OperandCounts.of_rows(read[1])
    measured = Measurements()
    measured.metrics["loss"] = loss
    if dead is not None:
        for role, rows_of_role in counts.by_role.items():
            measured.add_rounding(rows_of_role, f"/{role}")
        trained = state.trained_layers
        _add_pooled(
            measured, GRADIENT_METRICS, GRADIENT_COLUMNS, read[2], layer_count, trained, GRADIENT_MAXIMA
        )
        dead_rows = [row[0] for row in read[3][:trained]]
        measured.metrics["dead_neurons"] = sum(dead_rows)
        measured.put_layers("dead_neurons", dict(enumerate(dead_rows)), layer_count)
        if shadow is not None:
            _add_pooled(measured, SHADOW_METRICS, SHADOW_COLUMNS, read[4], layer_count, trained)
    return PassSummary(
        loss=loss,
        gradient_linf=linf,
        amax=counts.amax,
        nonfinite=counts.nonfinite,
        overflow_rate=counts.overflow_rate,
        measured=measured,
    )


def _add_pooled(
    measured: Measurements,
    specs: Sequence[MetricSpec],
    columns: Sequence[str],
    rows: Table,
    layer_count: int,
    trained: int,
    maxima: Sequence[str] = (),
) -> None:
    """Add per-layer values of the first ``trained`` rows, and of all rows (vectors, positions) pooled."""
    named = [dict(zip(columns, row, strict=True)) for row in rows[:trained]]
    measured.add(specs, pool(columns, rows, maxima), [*named, *[None] * (layer_count - len(named))])
