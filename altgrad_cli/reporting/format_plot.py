"""A format as a picture: its number line, its gaps and its relative error. SVG, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.accuracy import binades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1f5fa8", "#c8501e")
_MAX_CURVE_POINTS = 6000


def draw_formats(formats: Sequence[FP8Format], path: Path) -> None:
    """Write an SVG of one format, or of two in different colours and line styles.

    Number line (every value >= 0, linear and logarithmic), gap over x, relative error over x. The same file
    for the same formats: no date, fixed identifiers.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "altgrad", "svg.fonttype": "none", "font.size": 9}):
        figure, (line, logline, gaps, errors) = pyplot.subplots(
            4, 1, figsize=(9, 8.5), height_ratios=(1, 1, 3, 3), constrained_layout=True
        )
        try:
            figure.suptitle("\n".join(format.describe() for format in formats), fontsize=11)
            _draw_number_line(line, formats)
            _draw_log_line(logline, formats)
            _draw_gaps(gaps, formats)
            _draw_errors(errors, formats)
            figure.savefig(path, format="svg", metadata={"Date": None})
        finally:
            pyplot.close(figure)


def _draw_number_line(axes: Axes, formats: Sequence[FP8Format]) -> None:
    for row, format in enumerate(formats):
        axes.eventplot(
            [_thinned(format.magnitudes)],
            lineoffsets=[-row],
            linelengths=0.7,
            linewidths=0.7,
            colors=_COLOURS[row],
        )
    _label_rows(axes, formats)
    axes.set_xlabel("x, every value from 0 to the maximum")


def _draw_log_line(axes: Axes, formats: Sequence[FP8Format]) -> None:
    for row, format in enumerate(formats):
        values = [math.log2(value) for value in _thinned(format.magnitudes[1:])]
        axes.eventplot([values], lineoffsets=[-row], linelengths=0.7, linewidths=0.7, colors=_COLOURS[row])
    _label_rows(axes, formats)
    _powers_of_two(axes)
    axes.set_xlabel("the same on a logarithmic axis")


def _draw_gaps(axes: Axes, formats: Sequence[FP8Format]) -> None:
    for row, format in enumerate(formats):
        rows = binades(format)
        edges = [float(binade.exponent) for binade in rows]
        heights = [math.log2(binade.gap) for binade in rows]
        end = math.log2(format.max_representable_value)
        axes.step(
            [*edges, max(end, edges[-1] + 0.05)],
            [*heights, heights[-1]],
            where="post",
            color=_COLOURS[row],
            linestyle=("-", "--")[row],
            label=format.name,
        )
    _powers_of_two(axes)
    axes.yaxis.set_major_formatter(lambda exponent, _: f"$2^{{{exponent:g}}}$")
    axes.set_ylabel("gap at x")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def _draw_errors(axes: Axes, formats: Sequence[FP8Format]) -> None:
    for row, format in enumerate(formats):
        x, error = _error_curve(format)
        axes.plot(x, error, color=_COLOURS[row], linewidth=0.8, linestyle=("-", "--")[row], label=format.name)
    _powers_of_two(axes)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("|x - Q(x)| / x")
    axes.set_xlabel("x")
    axes.grid(alpha=0.3)


def _error_curve(format: FP8Format) -> tuple[list[float], list[float]]:
    """log2 x and relative error, from half the smallest value to twice the maximum.

    Each cell is a tooth with its tip at a midpoint, so values and midpoints draw it exactly; a format with
    more teeth than the picture has room for shows every n-th.
    """
    magnitudes = format.magnitudes
    every = max(1, len(magnitudes) * 2 // _MAX_CURVE_POINTS)
    x = [magnitudes[1] / 2, magnitudes[1] * 0.51]
    for low, high in list(pairwise(magnitudes[1:]))[::every]:
        x += [low, (low + high) / 2, high]
    x += [magnitudes[-1], magnitudes[-1] * 1.25, magnitudes[-1] * 2]
    x = sorted(set(x))
    error = [abs(point - format.to_real(format.to_bits(point))) / point for point in x]
    return [math.log2(point) for point in x], error


def _thinned(values: Sequence[float]) -> Sequence[float]:
    """At most a few thousand of the values: more ticks than that are one black bar in any case."""
    return values[:: max(1, len(values) // 2000)]


def _label_rows(axes: Axes, formats: Sequence[FP8Format]) -> None:
    axes.set_yticks([-row for row in range(len(formats))], [format.name for format in formats])
    axes.set_ylim(-len(formats) + 0.4, 0.6)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _powers_of_two(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.xaxis.set_major_formatter(lambda exponent, _: f"$2^{{{exponent:g}}}$")
