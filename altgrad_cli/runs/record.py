"""What a run's log says, as one record: the only place where tables, plans, verdicts and reports read from.

The log is streamed once into columns of eight bytes a value, so a run of 100,000 steps stays far below 2 GB
as long as the layer metrics are limited to those that are read. Absent is None, never 0.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.config.precision import OPERAND_ROLES, Regime
from altgrad_cli.config.run import MOST_STEPS
from altgrad_cli.metrics.thresholds import COLLAPSE_WINDOW, END_WINDOW
from altgrad_cli.runs.folder import JsonObject
from altgrad_cli.runs.log import RESUMABLE, Line, read_lines
from altgrad_cli.runs.series import GrowingLayers, GrowingSeries, LayerSeries, Series, sum_counts
from altgrad_cli.subjects.gpt.layer_names import layer_kind
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.training.events import (
    EVENTS,
    Alert,
    CheckpointSaved,
    Event,
    InterventionApplied,
    RunEnded,
    RunStarted,
    event_from_json,
)
from altgrad_cli.training.watch.collapse import stall_onset

_MAX_LISTED = 10_000
"""Events of one kind that a record lists, unless they are ``_ALL_LISTED``."""
_ALL_LISTED = ("run_started", "run_ended")
E = TypeVar("E", bound=Event)
CONTROLS: tuple[Regime, ...] = ("fp32", "frozen", "bf16")
"""Regimes of the controls, in the order in which they run: the two ends of rho, then the baseline.

The two ends take half the time of the others, for they have no shadow. Side by side they leave two workers
equally far; apart, one of them would be idle for the length of a control at the end.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunRecord:
    """One run as its log tells it."""

    run_dir: Path
    name: str
    """That of its folder, or what a report calls it."""
    started: RunStarted | None
    """The first ``run_started``; None where the run has not begun."""
    resumed: Sequence[RunStarted]
    """Every later ``run_started``: one a resumption, each with the configuration it went on with."""
    steps: NDArray[np.int64]
    metrics: Mapping[str, Series]
    layer_metrics: Mapping[str, LayerSeries]
    histograms: Mapping[str, Mapping[int, NDArray[np.int64]]]
    """Role to step to counts (codes + NaN bin), added over the layers."""
    validation: Series
    """Validation loss of the deployed (rounded) model."""
    validation_master: Series
    alerts: Sequence[Alert]
    interventions: Sequence[InterventionApplied]
    checkpoints: Sequence[CheckpointSaved]
    dropped_steps: Sequence[int]
    """Steps whose update was dropped because something was not finite."""
    last_step: int
    ended: RunEnded | None
    collapse: JsonObject | None
    """Class and step of a collapse; for a stall collapse ``onset`` and ``detected`` as well."""

    @property
    def resumptions(self) -> int:
        """How often the run was taken up again."""
        return len(self.resumed)

    @property
    def lost_checkpoints(self) -> list[str]:
        """What should lie on the disk and could not be written: anomalies, the last regular one, the best."""
        anomalies = [event for event in self.checkpoints if event.reason not in RESUMABLE]
        newest = {event.reason: event for event in self.checkpoints if event.reason in RESUMABLE}
        return [
            f"{event.reason} checkpoint of step {event.step}: {event.problem}"
            for event in (*anomalies, *newest.values())
            if event.path is None
        ]

    @property
    def config(self) -> JsonObject:
        """The resolved configuration with which the run began, as long as it was to become in the end."""
        config = dict(self.started.config) if self.started else {}
        length = self.resumed[-1].config if self.resumed else {}
        return config | {key: length[key] for key in ("max_steps",) if key in length}

    @property
    def precision(self) -> JsonObject:
        """The precision of the configuration."""
        precision: JsonObject = (self.started.config.get("precision") if self.started else None) or {}
        return precision

    @property
    def layers(self) -> list[str]:
        """Names of the linear layers in the order of all per-layer values."""
        return list(self.started.layers) if self.started else []

    @property
    def kinds(self) -> dict[str, LayerKind]:
        """What each of them is; a log that does not say is of altgrad's own network."""
        rows = {row["layer"]: row for row in (self.started.precision or () if self.started else ())}
        return {name: rows.get(name, {}).get("kind") or layer_kind(name) for name in self.layers}

    @property
    def injections(self) -> list[str]:
        """The faults that were planted."""
        return list(self.started.injections or ()) if self.started else []

    @property
    def predicted_stall(self) -> Mapping[str, object]:
        """What the initial weights predict of the bit-stall; {} without stored weights."""
        return (self.started.predicted_stall if self.started else None) or {}

    @property
    def coverage(self) -> Mapping[str, object]:
        """Which share of the multiply-adds is rounded; what is not, like modules as one (``h.*.attn``).

        {} where a log does not say.
        """
        said = (self.started.coverage if self.started else None) or {}
        groups: dict[tuple[str, str, str], int] = {}
        for row in said.get("left_out", ()):
            like = re.sub(r"\d+", "*", row["module"])
            key = (like, row["operation"], row["why"])
            groups[key] = groups.get(key, 0) + row["multiply_adds"]
        total = said.get("multiply_adds") or 0
        rows = sorted(groups.items(), key=lambda group: -group[1])
        left_out = {
            str(number): {
                "module": like,
                "operation": operation,
                "why": why,
                "share": count / total if total else None,
            }
            for number, ((like, operation, why), count) in enumerate(rows, start=1)
        }
        return {**said, "left_out": left_out} if said else {}

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.config.get("seed")

    @property
    def subject(self) -> str:
        """What was trained; a log that is older than the setting is of the GPT."""
        return str(self.config.get("subject") or "gpt")

    @property
    def observed(self) -> bool:
        """Whether the loop was somebody else's: its seed, data, batch size and end are not known here."""
        return self.config.get("max_steps") == MOST_STEPS

    @property
    def format(self) -> str | None:
        """The format the run began with; a later shift does not change it."""
        return self.formats[0][1] if self.formats else self.config.get("fp8_format")

    @property
    def formats(self) -> list[tuple[int, str]]:
        """(step, format) from which each format was in force."""
        return [(step, name) for step, name in self.ended.formats or ()] if self.ended else []

    @property
    def regime(self) -> str | None:
        """The precision regime."""
        return self.precision.get("regime")

    @property
    def control(self) -> str | None:
        """The control that this run is: ``fp32``, ``bf16`` or ``frozen``, and nothing but that.

        None for a run under study, such as one of these regimes with a rule or with a planted fault.
        """
        exceptions = self.precision.get("rules") or self.precision.get("roles") or self.injections
        return self.regime if self.regime in CONTROLS and not exceptions else None

    @property
    def has_rules(self) -> bool:
        """Whether some layers are exceptions."""
        return bool(self.precision.get("rules"))

    @property
    def outcome(self) -> str:
        """``completed``, ``collapsed``, ``plateau``, or ``unfinished`` where the log has no ending."""
        return self.ended.outcome if self.ended else "unfinished"

    @property
    def final_loss(self) -> float | None:
        """Training loss of the last step."""
        return self.series("loss").last()

    def series(self, metric: str) -> Series:
        """A metric of the whole run, the validation losses included; empty where it never was measured."""
        special = {"validation_loss": self.validation, "validation_loss_master": self.validation_master}
        return special.get(metric) or self.metrics.get(metric) or Series()

    def end(self, metric: str) -> float | None:
        """Mean of a run metric over the last steps (``END_WINDOW``)."""
        return _mean(self.series(metric).values[-END_WINDOW:])

    def mean(self, metric: str) -> float | None:
        """Mean of a run metric over all steps at which it was measured."""
        return _mean(self.series(metric).values)

    def median(self, metric: str) -> float | None:
        """Median of a run metric over all steps at which it was measured; None if any is non-finite."""
        values = self.series(metric).values
        return statistics.median(values.tolist()) if len(values) and np.isfinite(values).all() else None

    def worst_role(self, metric: str) -> float | None:
        """The largest over the operand roles of a pooled rate's mean over the run, e.g. ``overflow_rate``."""
        rates = [rate for role in OPERAND_ROLES if (rate := self.mean(f"{metric}/{role}")) is not None]
        return max(rates, default=None)

    def rows_between(self, first: int, last: int) -> slice:
        """The rows of the steps ``first`` to ``last``, both included, in ``steps`` and the layer series."""
        return slice(
            int(np.searchsorted(self.steps, first)), int(np.searchsorted(self.steps, last, side="right"))
        )

    def layer_means(
        self, metric: str, first: int | None = None, last: int | None = None
    ) -> list[float | None]:
        """The mean of ``metric`` over the steps, for each layer; None where it was not measured."""
        series = self.layer_metrics.get(metric)
        if series is None:
            return [None] * len(self.layers)
        return series.means(slice(None) if first is None else self.rows_between(first, last or first))


def read_run(
    run_dir: Path, *, name: str | None = None, layer_metrics: Collection[str] | None = None
) -> RunRecord:
    """The record of the run in ``run_dir``; of the layers only ``layer_metrics``, or all where it is None.

    Raises:
        UsageError: there is no log, or a line of it is damaged.
    """
    return build_record(run_dir, read_lines(run_dir), name=name, layer_metrics=layer_metrics)


def build_record(
    run_dir: Path,
    lines: Iterable[Line],
    *,
    name: str | None = None,
    layer_metrics: Collection[str] | None = None,
) -> RunRecord:
    """The record that ``lines``, in the order of the log, add up to; they are gone through once."""
    steps: list[int] = []
    dropped: list[int] = []
    metrics: dict[str, GrowingSeries] = {}
    layers: dict[str, GrowingLayers] = {}
    histograms: dict[str, dict[int, NDArray[np.int64]]] = {}
    validation, validation_master = GrowingSeries(), GrowingSeries()
    events: list[Event] = []
    listed: Counter[str] = Counter()
    last_step = 0
    for line in lines:
        kind, step = line["event"], line["step"]
        last_step = max(last_step, step)
        if kind == "step":  # as it stands: an object for each of its numbers would cost too much
            for metric, value in line["metrics"].items():
                if value is not None:
                    metrics.setdefault(metric, GrowingSeries()).add(step, value)
            for metric, values in line["layers"].items():
                if layer_metrics is None or metric in layer_metrics:
                    layers.setdefault(metric, GrowingLayers(len(values))).add(len(steps), values)
            for role, tables in (line.get("histograms") or {}).items():
                if any(tables):
                    histograms.setdefault(role, {})[step] = sum_counts(tables)
            steps.append(step)
            if not line["committed"]:
                dropped.append(step)
        elif kind == "evaluated":
            validation.add(step, line["validation_loss"])
            validation_master.add(step, line["validation_loss_master"])
            for metric, value in (line.get("scores") or {}).items():
                metrics.setdefault(metric, GrowingSeries()).add(step, value)
        elif kind in EVENTS and (kind in _ALL_LISTED or listed[kind] < _MAX_LISTED):
            listed[kind] += 1
            events.append(event_from_json(line))
    finished = {metric: series.finish() for metric, series in metrics.items()}
    started, ended = _of(events, RunStarted), _of(events, RunEnded)
    return RunRecord(
        run_dir=run_dir,
        name=name or run_dir.resolve().name,
        started=started[0] if started else None,
        resumed=started[1:],
        steps=np.array(steps, dtype=np.int64),
        metrics=finished,
        layer_metrics={metric: series.finish(len(steps)) for metric, series in layers.items()},
        histograms=histograms,
        validation=validation.finish(),
        validation_master=validation_master.finish(),
        alerts=_of(events, Alert),
        interventions=_of(events, InterventionApplied),
        checkpoints=_of(events, CheckpointSaved),
        dropped_steps=dropped,
        last_step=last_step,
        ended=ended[-1] if ended else None,
        collapse=_collapse(ended[-1] if ended else None, finished),
    )


def _of(events: Iterable[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _collapse(ended: RunEnded | None, metrics: Mapping[str, Series]) -> JsonObject | None:
    """The collapse that a run ended in.

    A log written before the onset was kept names the first step of the window in which a stall collapse was
    detected; its onset is then worked out from the steps, by the rule that finds it in training.
    """
    collapse = dict(ended.collapse) if ended and ended.collapse else None
    if collapse is None or collapse.get("class") != "stall_collapse":
        return collapse
    onset, detected = collapse.get("step"), collapse.get("detected")
    if detected is None and onset is not None:
        detected = onset + COLLAPSE_WINDOW - 1
        stalls = dict(metrics.get("bit_stall_rate", Series()))
        transfer = metrics.get("update_transfer", Series())
        onset = stall_onset(((step, tau, stalls.get(step)) for step, tau in transfer), detected) or onset
    return collapse | {"onset": onset, "detected": detected}


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
