"""Columns that grow with a run but stay small: exact per step for scalars, averaged in time for layers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from altgrad_cli.training.events import from_json_value

MAX_COLUMNS = 512
"""Layer series hold between half of this and this many time columns; more steps make a column wider."""


@dataclass(slots=True)
class Series:
    """One number a step. A step at which it was not measured is absent, never 0."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: object) -> None:
        """Append one value as it stands in the log; null is passed over."""
        number = from_json_value(value)
        if number is not None:
            self.steps.append(step)
            self.values.append(float(number))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(zip(self.steps, self.values, strict=True))

    def last(self) -> float | None:
        """The newest value, or None."""
        return self.values[-1] if self.values else None

    def at(self, step: int) -> float | None:
        """The value of ``step``, or None."""
        for index in range(len(self.steps) - 1, -1, -1):
            if self.steps[index] == step:
                return self.values[index]
            if self.steps[index] < step:
                return None
        return None

    def before(self, step: int) -> float | None:
        """The newest value from before ``step``, or failing that the first one; None without any."""
        earlier = [value for at, value in self if at < step]
        return earlier[-1] if earlier else next(iter(self.values), None)

    def tail(self, count: int) -> list[float]:
        """The values of the last ``count`` steps measured."""
        return list(self.values[-count:])


@dataclass(slots=True)
class LayerSeries:
    """One metric of every layer over time, as means over equally wide columns of steps.

    Column k of layer l is the mean over the measured steps in (k * width, (k + 1) * width]; None where no
    step was measured. A non-finite value makes its column NaN: it is not averaged away.
    """

    layers: int
    width: int = 1
    sums: list[list[float]] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)

    def add(self, step: int, values: Sequence[object]) -> None:
        """Enter one step's values, in the order of the layers."""
        column = max(step - 1, 0) // self.width
        while column >= MAX_COLUMNS:
            self._widen()
            column = max(step - 1, 0) // self.width
        while len(self.sums) <= column:
            self.sums.append([0.0] * self.layers)
            self.counts.append([0] * self.layers)
        sums, counts = self.sums[column], self.counts[column]
        for layer, value in enumerate(values[: self.layers]):
            if value is not None:
                number = value if isinstance(value, float | int) else from_json_value(value)
                sums[layer] += number if math.isfinite(number) else math.nan
                counts[layer] += 1

    def columns(self) -> list[tuple[int, list[float | None]]]:
        """(last step of the column, mean of each layer or None), oldest first."""
        return [
            ((index + 1) * self.width, [s / n if n else None for s, n in zip(sums, counts, strict=True)])
            for index, (sums, counts) in enumerate(zip(self.sums, self.counts, strict=True))
        ]

    def means(self) -> list[float | None]:
        """The mean of each layer over the whole run."""
        totals: list[float | None] = []
        for layer in range(self.layers):
            count = sum(row[layer] for row in self.counts)
            totals.append(math.fsum(row[layer] for row in self.sums) / count if count else None)
        return totals

    def _widen(self) -> None:
        """Make each column twice as wide by adding neighbours."""
        self.width *= 2
        for table in (self.sums, self.counts):
            for index in range(0, len(table) - 1, 2):
                table[index] = [a + b for a, b in zip(table[index], table[index + 1], strict=True)]  # type: ignore[misc]
            del table[1::2]
