"""A format as a picture: its number line, its gaps and its relative error. SVG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.accuracy import binades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_COLOURS = ("#1f5fa8", "#c8501e")
_MAX_CELLS = 1000
_MAX_TICKS = 1000


def draw_formats(formats: Sequence[FP8Format]) -> bytes:
    """An SVG of one format, or of two in different colours and line styles.

    Number line (every value >= 0, linear and logarithmic), gap over x, relative error over x. The same file
    for the same formats: no date, fixed identifiers.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "altgrad", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 9))
        line, logline, gaps, errors = figure.subplots(4, 1, height_ratios=(1, 1, 3, 3))
        # Fixed margins: a solver's layout differs in the last digit from one drawing to the next.
        figure.subplots_adjust(left=0.13, right=0.98, top=0.93, bottom=0.06, hspace=0.5)
        gaps.sharex(logline)
        errors.sharex(logline)
        figure.suptitle("\n".join(format.describe() for format in formats), fontsize=11, y=0.985)
        _draw_values(line, formats, float)
        line.set_xlabel("x, every value from 0 to the maximum")
        _draw_values(logline, formats, math.log2)
        _integer_powers(logline.xaxis)
        logline.set_xlabel("the same on a logarithmic axis")
        _draw_gaps(gaps, formats)
        _draw_errors(errors, formats)
        drawing = io.BytesIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    return drawing.getvalue()


def _draw_values(axes: Axes, formats: Sequence[FP8Format], place: Callable[[float], float]) -> None:
    for row, format in enumerate(formats):
        # Of a 16-bit format every n-th value: all of its ticks would be one solid bar in any case.
        values = format.magnitudes[:: max(1, len(format.magnitudes) // _MAX_TICKS)]
        places = [place(value) for value in values if value or place is float]
        axes.eventplot([places], lineoffsets=[-row], linelengths=0.7, linewidths=0.7, colors=_COLOURS[row])
    axes.set_yticks([-row for row in range(len(formats))], [format.name for format in formats])
    axes.set_ylim(-len(formats) + 0.4, 0.6)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


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
    _integer_powers(axes.xaxis)
    _integer_powers(axes.yaxis)
    axes.set_ylabel("gap at x")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def _draw_errors(axes: Axes, formats: Sequence[FP8Format]) -> None:
    for row, format in enumerate(formats):
        x, error = _error_curve(format)
        axes.plot(x, error, color=_COLOURS[row], linewidth=0.9, linestyle=("-", "--")[row], label=format.name)
    _integer_powers(axes.xaxis)
    _integer_powers(axes.yaxis)
    axes.set_ylim(min(-format.mantissa_bits - 3 for format in formats), 0.3)
    axes.set_ylabel("worst |x - Q(x)| / x")
    axes.set_xlabel("x, beyond both ends: underflow to 0 and saturation")
    axes.grid(alpha=0.3)


def _error_curve(format: FP8Format) -> tuple[list[float], list[float]]:
    """log2 of x and of its relative error, from half the smallest value to twice the maximum.

    Between two values it is taken where it is largest, halfway. A format with more values than the picture
    has room for shows every n-th.
    """
    smallest, largest = format.magnitudes[1], format.magnitudes[-1]
    cells = list(pairwise(format.magnitudes[1:]))[:: max(1, len(format.magnitudes) // _MAX_CELLS)]
    points = [smallest * 0.5, smallest * 0.6, smallest * 0.8]
    points += [(low + high) / 2 for low, high in cells]
    points += [largest * factor for factor in (1.05, 1.2, 1.5, 2)]
    errors = [abs(x - format.to_real(format.to_bits(x))) / x for x in points]
    return [math.log2(x) for x in points], [math.log2(error) for error in errors]


def _integer_powers(axis: Axis) -> None:
    """Ticks at whole exponents, written as powers of two."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axis.set_major_formatter(lambda exponent, _: f"$2^{{{exponent:g}}}$")
