"""Columns of numbers that a run's log adds up to: one number a step, or one a step and layer."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.training.events import from_json_value

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One number a step, ascending by step. A step at which it was not measured is absent, never 0."""

    steps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    values: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, object]]) -> Series:
        """The series of (step, value as it stands in a log); null is passed over."""
        growing = GrowingSeries()
        for step, value in pairs:
            growing.add(step, value)
        return growing.finish()

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(zip(self.steps.tolist(), self.values.tolist(), strict=True))

    def last(self) -> float | None:
        """The newest value, or None."""
        return float(self.values[-1]) if len(self) else None

    def at(self, step: int) -> float | None:
        """The value of ``step``, or None."""
        row = int(np.searchsorted(self.steps, step))
        return float(self.values[row]) if row < len(self) and self.steps[row] == step else None

    def before(self, step: int) -> float | None:
        """The newest value from before ``step``, or failing that the first one; None without any."""
        row = max(0, int(np.searchsorted(self.steps, step)) - 1)
        return float(self.values[row]) if len(self) else None


@dataclass(slots=True)
class GrowingSeries:
    """A series under construction: 16 bytes a value."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: object) -> None:
        """Append one value as it stands in the log; null is passed over."""
        if value is not None:
            self.steps.append(step)
            self.values.append(float(from_json_value(value)))

    def finish(self) -> Series:
        """The whole series."""
        return Series(np.array(self.steps, dtype=np.int64), np.array(self.values, dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class LayerSeries:
    """A metric of all layers over the steps of a run: ``values`` (steps, layers), float64.

    It knows two kinds of absence apart: ``measured`` has the same shape; where it is False the value is NaN
    and means nothing. A NaN that was measured is one.
    """

    values: Floats
    measured: NDArray[np.bool_]

    def means(self, rows: slice = slice(None)) -> list[float | None]:
        """Mean of each layer over ``rows``; None where nothing was measured, NaN where anything was NaN."""
        values, measured = self.values[rows], self.measured[rows]
        counts = measured.sum(axis=0)
        sums = np.where(measured, values, 0.0).sum(axis=0)
        return [float(total / n) if n else None for total, n in zip(sums, counts, strict=True)]


@dataclass(slots=True)
class GrowingLayers:
    """A layer series under construction: 9 bytes a value."""

    layers: int
    values: array[float] = field(default_factory=lambda: array("d"))
    measured: bytearray = field(default_factory=bytearray)

    def add(self, row: int, values: Sequence[object]) -> None:
        """Enter the values of step number ``row``; the steps skipped since the last one were not measured."""
        self._skip_to(row)
        numbers = np.array(values, dtype=np.float64)  # None and "NaN" both become nan here
        self.values.frombytes(numbers.reshape(self.layers).tobytes())
        self.measured.extend(value is not None for value in values)

    def finish(self, rows: int) -> LayerSeries:
        """The whole series, ``rows`` long."""
        self._skip_to(rows)
        shape = (rows, self.layers)
        measured = np.frombuffer(self.measured, dtype=np.bool_)
        return LayerSeries(np.frombuffer(self.values).reshape(shape), measured.reshape(shape))

    def _skip_to(self, row: int) -> None:
        absent = row * self.layers - len(self.measured)
        self.values.extend([math.nan] * absent)
        self.measured.extend(bytes(absent))


def sum_counts(tables: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Counts by code, added over the layers of the commonest code count; at least one has to have counts.

    Layers kept in BF16 have another code space: the format under study is the one of most layers.
    """
    counted = [table for table in tables if table]
    lengths = [len(table) for table in counted]
    length = max(lengths, key=lengths.count)
    return np.sum([table for table in counted if len(table) == length], axis=0, dtype=np.int64)
