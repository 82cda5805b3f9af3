"""What the pointer finds in a drawing: which words stand where, for the script of the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import ArrayLike

from altgrad_cli.notation import MISSING, format_value
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.thinning import thin_curve

POINTS = 300
"""Points of a curve that the pointer finds."""


class HoverCells(TypedDict):
    """Cells of one size between ``box`` (left, top, right, bottom); a row's values are parted by blanks."""

    box: list[float]
    columns: list[int]
    rows: tuple[str, ...]
    values: list[str]


class Hover(TypedDict):
    """Words and where they stand, in fractions of the drawing's width and height from its upper left."""

    points: list[tuple[float, float, str]]
    grids: list[HoverCells]


def hover_of(figure: figures.Figure, canvas: Canvas) -> Hover:
    """What stands where in ``canvas``, on which ``figure`` has been drawn."""
    axes = canvas.axes[0]
    if isinstance(figure, figures.HeatFigure):
        return Hover(
            points=[], grids=[_grid(*pair) for pair in zip(canvas.axes, figure.panels, strict=False)]
        )
    points: list[tuple[float, float, str]] = []
    if isinstance(figure, figures.LineFigure):
        for curve in figure.curves:
            x, y = thin_curve(curve.x, curve.y, POINTS)
            words = (f"{curve.label}\nstep {step}: {value:.4f}" for step, value in zip(x, y, strict=True))
            points += _points(axes, x, y, words)
        points += [spot for mark in figure.marks for spot in _points(axes, [mark.x], [mark.y], [mark.label])]
    elif isinstance(figure, figures.CloudFigure):
        scale = figure.scale
        for cloud in figure.clouds:
            words = (
                f"{cloud.label}\n{name}: predicted {format_value(x)}, measured {format_value(y)}"
                for name, x, y in zip(cloud.names, cloud.x, cloud.y, strict=True)
            )
            place = [np.clip(scale.forward(values), scale.low, scale.high) for values in (cloud.x, cloud.y)]
            points += _points(axes, place[0], place[1], words)
    elif isinstance(figure, figures.TradeFigure):
        for panel, trade in zip(canvas.axes, figure.trades, strict=True):
            words = (
                f"{trade.label} with {name}\n{bits:.0f} bits, {gap:+.3f} nats"
                for name, bits, gap in zip(trade.names, trade.x, trade.y, strict=True)
            )
            points += _points(panel, trade.x, trade.y, words)
    else:
        for number, row in enumerate(figure.rows):
            words = (f"{name}: {value:.3f}" for name, value in zip(row.names, row.values, strict=True))
            points += _points(axes, row.values, [number] * len(row.values), words)
    return Hover(points=points, grids=[])


def _fractions(axes: Axes, x: ArrayLike, y: ArrayLike) -> figures.Values:
    """(points, 2): fractions of the whole drawing from its upper left."""
    pixels = np.array(axes.transData.transform(np.array([x, y], dtype=float).T), dtype=np.float64)
    places = pixels / axes.figure.bbox.size
    return np.column_stack([places[:, 0], 1 - places[:, 1]]).round(4)


def _points(axes: Axes, x: ArrayLike, y: ArrayLike, words: Iterable[str]) -> list[tuple[float, float, str]]:
    pairs = zip(_fractions(axes, x, y).tolist(), words, strict=True)
    return [(left, top, text) for (left, top), text in pairs if np.isfinite([left, top]).all()]


def _grid(axes: Axes, panel: figures.Panel) -> HoverCells:
    cells = zip(panel.values, panel.measured, strict=True)
    return HoverCells(
        box=_fractions(axes, panel.borders, axes.get_ylim()[::-1]).ravel().tolist(),
        columns=[int(step) for step in panel.x],
        rows=panel.rows,
        values=[
            " ".join(format_value(float(v)) if seen else MISSING for v, seen in zip(*row, strict=True))
            for row in cells
        ],
    )
