"""A run's log with its layers step by step: one array a layer metric, beside the run's record, in one pass.

A value knows two kinds of absence apart: *not measured* (``measured`` is False) and *NaN* (measured, and
not a number). Columns hold eight bytes a value, so a run of 100,000 steps stays far below 2 GB as long as the
layer metrics are limited to those a report names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.runs.log import Line, read_lines
from altgrad_cli.runs.record import RunRecord, build_record
from altgrad_cli.sweeps.arms import CONTROLS

CHUNK = 512
"""Steps that wait as Python objects before they become arrays."""


@dataclass(frozen=True, slots=True)
class Column:
    """A metric of all layers over the steps of a run: ``values`` (steps, layers), float64.

    ``measured`` has the same shape; where it is False the value is NaN and means nothing.
    """

    values: NDArray[np.float64]
    measured: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunLog:
    """Everything a report reads of one run: its record, and what the record does not keep step by step."""

    name: str
    """What the report calls the run."""
    record: RunRecord
    steps: NDArray[np.int64]
    layers: Mapping[str, Column]
    histograms: Mapping[str, Mapping[int, NDArray[np.int64]]]
    """Role to step to counts (codes + NaN bin), added over the layers."""

    @property
    def layer_names(self) -> list[str]:
        """The linear layers in execution order."""
        return self.record.layers

    @property
    def last_step(self) -> int:
        """Number of the last step in the log; 0 where none was taken."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def control(self) -> str | None:
        """The control that this run is: ``fp32``, ``bf16`` or ``frozen``, and nothing but that.

        None for a run under study, such as one of these regimes with a rule or with a planted fault.
        """
        precision = self.record.config.get("precision") or {}
        exceptions = precision.get("rules") or precision.get("roles") or self.record.started.get("injections")
        return self.record.regime if self.record.regime in CONTROLS and not exceptions else None

    @property
    def has_rules(self) -> bool:
        """Whether some layers are exceptions."""
        return bool((self.record.config.get("precision") or {}).get("rules"))

    def rows_between(self, first: int, last: int) -> slice:
        """The rows of the steps ``first`` to ``last``, both included."""
        return slice(
            int(np.searchsorted(self.steps, first)), int(np.searchsorted(self.steps, last, side="right"))
        )


@dataclass(slots=True)
class _Growing:
    """A column under construction: full chunks as arrays, the newest steps as Python objects."""

    width: int
    """Number of layers."""
    rows: int = 0
    chunks: list[Column] = field(default_factory=list)
    pending: list[Any] = field(default_factory=list)

    def add(self, row: int, value: list[Any]) -> None:
        """Enter the values of step number ``row``; the steps skipped since the last one were not measured."""
        missing = row - self.rows - len(self.pending)
        if missing:
            self.pending.extend([[None] * self.width] * missing)
        self.pending.append(value)
        if len(self.pending) >= CHUNK:
            self._flush()

    def finish(self, rows: int) -> Column:
        """The whole column, ``rows`` long."""
        missing = rows - self.rows - len(self.pending)
        self.pending.extend([[None] * self.width] * missing)
        self._flush()
        if len(self.chunks) == 1:
            return self.chunks[0]
        return Column(
            np.concatenate([chunk.values for chunk in self.chunks]),
            np.concatenate([chunk.measured for chunk in self.chunks]),
        )

    def _flush(self) -> None:
        if not self.pending:
            return
        values = np.array(self.pending, dtype=np.float64)  # None and "NaN" both become nan here
        measured = np.ones(values.shape, dtype=bool)
        if np.isnan(values).any():
            measured = np.array([[value is not None for value in row] for row in self.pending])
        self.chunks.append(Column(values, measured))
        self.rows += len(self.pending)
        self.pending.clear()


def read_log(
    run_dir: Path, *, name: str | None = None, layer_metrics: Collection[str] | None = None
) -> RunLog:
    """The log of the run in ``run_dir``; of the layers only ``layer_metrics``, or all where it is None.

    Raises:
        UsageError: there is no log, or a line of it is damaged.
    """
    return log_of(
        read_lines(run_dir), run_dir, name=name or run_dir.resolve().name, layer_metrics=layer_metrics
    )


def log_of(
    lines: Iterable[Line], run_dir: Path, *, name: str, layer_metrics: Collection[str] | None = None
) -> RunLog:
    """The log that ``lines``, in their order, add up to; they are gone through once."""
    steps: list[int] = []
    columns: dict[str, _Growing] = {}
    histograms: dict[str, dict[int, NDArray[np.int64]]] = {}

    def watched() -> Iterator[Line]:
        for line in lines:
            if line["event"] == "step":
                _enter_step(line)
            yield line

    def _enter_step(line: Line) -> None:
        row = len(steps)
        steps.append(line["step"])
        for metric, values in line["layers"].items():
            if layer_metrics is None or metric in layer_metrics:
                if metric not in columns:
                    columns[metric] = _Growing(len(values))
                columns[metric].add(row, values)
        for role, tables in (line.get("histograms") or {}).items():
            counts = [table for table in tables if table]
            if counts:
                histograms.setdefault(role, {})[line["step"]] = _sum_counts(counts)

    record = build_record(run_dir, watched(), layers=False)
    return RunLog(
        name=name,
        record=record,
        steps=np.array(steps, dtype=np.int64),
        layers={metric: column.finish(len(steps)) for metric, column in columns.items()},
        histograms=histograms,
    )


def _sum_counts(tables: list[list[int]]) -> NDArray[np.int64]:
    """Counts added over the layers of the commonest code count (the head's BF16 has codes of its own)."""
    lengths = [len(table) for table in tables]
    length = max(set(lengths), key=lengths.count)
    return np.sum([table for table in tables if len(table) == length], axis=0, dtype=np.int64)
