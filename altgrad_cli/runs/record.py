"""What a run's log says, as one record: the only place where tables, plans, verdicts and reports read from.

The log is streamed once. Scalars are kept step by step, per-layer values as means over columns of steps,
so a run of 100,000 steps fits in a few hundred megabytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.thresholds import COLLAPSE_WINDOW, END_WINDOW
from altgrad_cli.runs.log import Line, read_lines
from altgrad_cli.runs.series import LayerSeries, Series
from altgrad_cli.training.events import from_json_value
from altgrad_cli.training.watch.collapse import stall_onset

_SNAPSHOTS = 5
_MAX_LISTED = 10_000


@dataclass(slots=True)
class RunRecord:
    """One run as its log tells it. Absent is None, never 0."""

    run_dir: Path
    started: Line = field(default_factory=dict)
    """The first ``run_started``, as it stands in the log."""
    resumed: list[Line] = field(default_factory=list)
    """Every later ``run_started``: one a resumption, each with the configuration it went on with."""
    metrics: dict[str, Series] = field(default_factory=dict)
    layer_metrics: dict[str, LayerSeries] = field(default_factory=dict)
    validation: Series = field(default_factory=Series)
    """Validation loss of the deployed (rounded) model."""
    validation_master: Series = field(default_factory=Series)
    alerts: list[Line] = field(default_factory=list)
    interventions: list[Line] = field(default_factory=list)
    checkpoints: list[Line] = field(default_factory=list)
    snapshots: deque[Line] = field(default_factory=lambda: deque(maxlen=_SNAPSHOTS))
    """The last steps that carry histograms, that is the last diagnostic intervals."""
    dropped_steps: list[int] = field(default_factory=list)
    """Steps whose update was dropped because something was not finite."""
    last_step: int = 0
    ended: Line | None = None

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.run_dir.resolve().name

    @property
    def resumptions(self) -> int:
        """How often the run was taken up again."""
        return len(self.resumed)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        config: dict[str, Any] = self.started.get("config", {})
        return config

    @property
    def layers(self) -> list[str]:
        """Names of the linear layers, in the order of all per-layer values."""
        return list(self.started.get("layers", ()))

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.config.get("seed")

    @property
    def format(self) -> str | None:
        """The format the run began with; a later shift does not change it."""
        return self.formats[0][1] if self.formats else self.config.get("fp8_format")

    @property
    def formats(self) -> list[tuple[int, str]]:
        """(step, format) from which each format was in force."""
        return [(step, name) for step, name in (self.ended or {}).get("formats") or ()]

    @property
    def regime(self) -> str | None:
        """The precision regime."""
        return self.config.get("precision", {}).get("regime")

    @property
    def outcome(self) -> str:
        """``completed``, ``collapsed``, ``plateau``, or ``unfinished`` where the log has no ending."""
        return self.ended["outcome"] if self.ended else "unfinished"

    @property
    def collapse(self) -> dict[str, Any] | None:
        """Class and step of a collapse; for a stall collapse ``onset`` and ``detected`` as well.

        A log written before the onset was kept names the first step of the window in which the collapse was
        detected; its onset is then worked out from the steps, by the rule that finds it in training.
        """
        collapse: dict[str, Any] | None = self.ended.get("collapse") if self.ended else None
        if collapse is None or collapse.get("class") != "stall_collapse":
            return collapse
        onset, detected = collapse.get("step"), collapse.get("detected")
        if detected is None and onset is not None:
            detected = onset + COLLAPSE_WINDOW - 1
            onset = stall_onset(self._stall_steps(), detected) or onset
        return collapse | {"onset": onset, "detected": detected}

    def _stall_steps(self) -> Iterator[tuple[int, float | None, float | None]]:
        transfer, stall = (self.metrics.get(name, Series()) for name in ("update_transfer", "bit_stall_rate"))
        stalls = dict(stall)
        return ((step, tau, stalls.get(step)) for step, tau in transfer)

    @property
    def final_loss(self) -> float | None:
        """Training loss of the last step."""
        series = self.metrics.get("loss")
        return series.last() if series else None

    def end(self, metric: str) -> float | None:
        """Mean of a run metric over the last steps (``END_WINDOW``)."""
        return _mean(self.metrics[metric].tail(END_WINDOW)) if metric in self.metrics else None

    def mean(self, metric: str) -> float | None:
        """Mean of a run metric over all steps at which it was measured."""
        return _mean(list(self.metrics[metric].values)) if metric in self.metrics else None

    def median(self, metric: str) -> float | None:
        """Median of a run metric over all steps at which it was measured; None if any is non-finite."""
        values = sorted(self.metrics[metric].values) if metric in self.metrics else []
        if not values or not all(map(math.isfinite, values)):
            return None
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2

    def worst_role(self, metric: str) -> float | None:
        """The largest over the operand roles of a pooled rate's mean over the run, e.g. ``overflow_rate``."""
        rates = [rate for role in OPERAND_ROLES if (rate := self.mean(f"{metric}/{role}")) is not None]
        return max(rates, default=None)


def read_run(run_dir: Path, *, layers: bool = True) -> RunRecord:
    """The record of the run in ``run_dir``; ``layers=False`` leaves the per-layer series out (faster)."""
    return build_record(run_dir, read_lines(run_dir), layers=layers)


def build_record(run_dir: Path, lines: Iterator[Line], *, layers: bool = True) -> RunRecord:
    """The record that ``lines``, in the order of the log, add up to."""
    record = RunRecord(run_dir)
    for line in lines:
        enter = _ENTER.get(line["event"])
        if enter is not None:
            enter(record, line)
        if layers and line["event"] == "step":
            _enter_layers(record, line)
        record.last_step = max(record.last_step, line.get("step", 0))
    return record


def _started(record: RunRecord, line: Line) -> None:
    if record.started:
        record.resumed.append(line)
    else:
        record.started = line


def _step(record: RunRecord, line: Line) -> None:
    step = line["step"]
    for name, value in line["metrics"].items():
        if value is not None:
            series = record.metrics.get(name)
            if series is None:
                series = record.metrics[name] = Series()
            series.add(step, value)
    if not line["committed"]:
        record.dropped_steps.append(step)
    if line.get("histograms"):
        record.snapshots.append(line)


def _enter_layers(record: RunRecord, line: Line) -> None:
    step = line["step"]
    for name, values in line["layers"].items():
        series = record.layer_metrics.get(name)
        if series is None:
            series = record.layer_metrics[name] = LayerSeries(len(values))
        series.add(step, values)


def _evaluated(record: RunRecord, line: Line) -> None:
    record.validation.add(line["step"], line["validation_loss"])
    record.validation_master.add(line["step"], line["validation_loss_master"])


def _ended(record: RunRecord, line: Line) -> None:
    record.ended = line | {"collapse": from_json_value(line.get("collapse"))}


def _listed(name: str) -> Callable[[RunRecord, Line], None]:
    def enter(record: RunRecord, line: Line) -> None:
        listed = getattr(record, name)
        if len(listed) < _MAX_LISTED:
            listed.append(line)

    return enter


_ENTER: dict[str, Callable[[RunRecord, Line], None]] = {
    "run_started": _started,
    "step": _step,
    "evaluated": _evaluated,
    "alert": _listed("alerts"),
    "intervention": _listed("interventions"),
    "checkpoint": _listed("checkpoints"),
    "run_ended": _ended,
}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
