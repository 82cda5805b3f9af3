"""What a picture shows, without how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scale:
    """How values become positions or colours, and which of them are written on the axis."""

    forward: Callable[[Values], Values]
    low: float
    high: float
    """Ends of the scale, in transformed units; beyond them it saturates."""
    ticks: tuple[tuple[float, str], ...]
    """(value, label) with the value untransformed."""

    def positions(self) -> list[float]:
        """Where the ticks stand, in transformed units."""
        return [float(self.forward(np.array([value]))[0]) for value, _ in self.ticks]

    def labels(self) -> list[str]:
        """What the ticks say."""
        return [label for _, label in self.ticks]


def _nines(values: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.log10(np.maximum(1.0 - values, 1e-5))


def _decades(values: Values) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


NINES = Scale(
    _nines,
    0.0,
    4.0,
    ((0, "0"), (0.5, ".5"), (0.9, ".9"), (0.99, ".99"), (0.999, ".999"), (0.9999, ".9999")),
)
"""For shares and cosines near 1, where .97 and .997 are worlds apart: the distance from 1, in decades."""
RARE = Scale(
    _decades,
    -6.0,
    0.0,
    ((1e-6, "1e-6"), (1e-5, "1e-5"), (1e-4, "1e-4"), (1e-3, ".001"), (1e-2, ".01"), (1e-1, ".1"), (1, "1")),
)
"""For rates of rare events, in decades; exactly 0 has a colour of its own."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth a flag: where a run collapsed."""

    x: float
    y: float
    label: str
    color: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One line. NaN in ``y`` is drawn as a cross at the level where the line broke off."""

    label: str
    x: Steps
    y: Values
    color: str
    dash: bool = False
    faint: Values | None = None
    """The same before smoothing, drawn pale behind it."""
    minor: bool = False
    """Drawn thin, without a name: a run that is there for the sake of another."""
    band: tuple[Values, Values] | None = None
    """Lowest and highest of the seeds of which ``y`` is the mean."""


@dataclass(frozen=True, slots=True)
class LineFigure:
    """Curves over steps."""

    key: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One heat map: ``values`` (rows, columns), untransformed; where ``measured`` is False nothing was."""

    title: str
    x: Values
    """Step of each column."""
    rows: tuple[str, ...]
    values: Values
    measured: NDArray[np.bool_]
    mark: float | None = None
    """Step of a collapse."""

    @property
    def borders(self) -> tuple[float, float]:
        """Where the first column begins and the last one ends: half a column beyond their steps."""
        half = (self.x[-1] - self.x[0]) / (len(self.x) - 1) / 2 if len(self.x) > 1 else 0.5
        return float(self.x[0] - half), float(self.x[-1] + half)


@dataclass(frozen=True, slots=True)
class HeatFigure:
    """Heat maps with one colour scale."""

    key: str
    title: str
    x_label: str
    unit: str
    scale: Scale
    panels: tuple[Panel, ...]
    high_is_good: bool = False
    """Whether trouble is at the low end of the scale: it is dark in every picture."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of one run."""

    label: str
    x: Values
    y: Values
    names: tuple[str, ...]
    color: str


@dataclass(frozen=True, slots=True)
class CloudFigure:
    """Points of which x and y ought to be equal; the diagonal is drawn."""

    key: str
    title: str
    x_label: str
    y_label: str
    scale: Scale
    clouds: tuple[Cloud, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """One row of a dot chart: every seed's value."""

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...]
    color: str


@dataclass(frozen=True, slots=True)
class SpreadFigure:
    """A value of several groups with its spread, and the levels that matter."""

    key: str
    title: str
    x_label: str
    rows: tuple[Spread, ...]
    levels: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Trade:
    """What one format pays in loss for what it saves in memory, a point a rule."""

    label: str
    x: Values
    y: Values
    half_widths: Values
    names: tuple[str, ...]
    color: str

    @property
    def front(self) -> list[int]:
        """The points that no other beats: each lower than all that are no further right, in that order."""
        chosen: list[int] = []
        for index in np.lexsort((self.y, self.x)):
            if not chosen or self.y[index] < self.y[chosen[-1]]:
                chosen.append(int(index))
        return chosen


@dataclass(frozen=True, slots=True)
class TradeFigure:
    """Points of several formats, each format's lowest joined by a line."""

    key: str
    title: str
    x_label: str
    y_label: str
    trades: tuple[Trade, ...]


Figure = LineFigure | HeatFigure | CloudFigure | SpreadFigure | TradeFigure
