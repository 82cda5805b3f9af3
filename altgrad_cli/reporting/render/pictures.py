"""Figures drawn with matplotlib: PNG for Markdown, SVG for the page.

Without pyplot, whose state is global.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from altgrad_cli.reporting.blocks import figures, palette
from altgrad_cli.reporting.blocks.thinning import nonfinite_points
from altgrad_cli.reporting.render.hover import Hover, hover_of

_HEAT = LinearSegmentedColormap.from_list("heat", palette.HEAT)
_OUTSIDE_THE_SCALE = {
    "not measured": palette.MISSING,
    "exactly 0": palette.ZERO,
    "not finite": palette.NONFINITE,
}
DPI = 110
WIDTH = 9.2
_LONGEST_LABEL = 40
_STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": palette.GREY,
    "axes.labelcolor": palette.INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": palette.PALE,
    "grid.linewidth": 0.6,
    "xtick.color": palette.GREY,
    "ytick.color": palette.GREY,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": palette.INK,
    "figure.facecolor": "white",
}


def to_png(figure: figures.Figure) -> bytes:
    """``figure`` as PNG; the same figure gives the same bytes: no software's name or date is inside."""
    return _drawn(figure, "png", {"Software": None})[1]


def to_svg(figure: figures.Figure) -> tuple[str, Hover]:
    """``figure`` as an ``<svg>`` element as wide as what holds it, and what the pointer finds in it."""
    canvas, data = _drawn(figure, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = data.decode()
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2), hover_of(
        figure, canvas
    )


def draw(figure: figures.Figure) -> Canvas:
    """``figure`` on a canvas of its own, as it is written to a file."""
    with rc_context(_STYLE):  # type: ignore[arg-type]
        return _DRAWERS[type(figure)](figure)


def _drawn(figure: figures.Figure, kind: str, metadata: dict[str, None]) -> tuple[Canvas, bytes]:
    # The salt names what one drawing's parts refer to; several stand in one page.
    with rc_context(_STYLE | {"svg.hashsalt": figure.key, "svg.fonttype": "none"}):  # type: ignore[arg-type]
        canvas = _DRAWERS[type(figure)](figure)
        FigureCanvasAgg(canvas)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return canvas, buffer.getvalue()


def _canvas(height: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    return canvas, canvas.subplots()


def _short(label: str) -> str:
    """``label`` without the middle of a long one, beside which there would be no room for the picture."""
    head, tail = _LONGEST_LABEL // 2, _LONGEST_LABEL - _LONGEST_LABEL // 2 - 1
    return label if len(label) <= _LONGEST_LABEL else f"{label[:head]}\N{HORIZONTAL ELLIPSIS}{label[-tail:]}"


def _draw_lines(figure: figures.LineFigure) -> Canvas:
    named = [curve for curve in figure.curves if not curve.minor]
    canvas, axes = _canvas(max(4.6, 0.165 * len(named) + 1.2))
    for curve in figure.curves:
        style = (0, (5, 2)) if curve.dash else "-"
        if curve.faint is not None:
            axes.plot(curve.x, curve.faint, color=curve.color, alpha=0.22, linewidth=0.7, linestyle=style)
        if curve.band is not None:
            axes.fill_between(curve.x, *curve.band, color=curve.color, alpha=0.16, linewidth=0)
        width, alpha = (0.9, 0.6) if curve.minor else (1.7, 1.0)
        axes.plot(curve.x, curve.y, color=curve.color, lw=width, alpha=alpha, ls=style)
        broken = nonfinite_points(curve.x, curve.y)
        if len(broken):
            axes.plot(*broken.T, "x", color=palette.NONFINITE, markersize=7, markeredgewidth=1.8, zorder=5)
    for mark in figure.marks:
        axes.axvline(mark.x, color=mark.color, linewidth=0.9, linestyle=":")
        axes.plot(mark.x, mark.y, "v", color=mark.color, markersize=9, markeredgecolor="white", zorder=6)
    _head(canvas, figure.title)
    axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
    axes.set_xlim(*_ends([curve.x for curve in figure.curves]))
    handles: list[Artist] = []
    if any(np.isnan(curve.y).any() for curve in figure.curves):
        handles.append(
            Line2D([], [], color=palette.NONFINITE, marker="x", linestyle="", label="loss not finite")
        )
    if any(curve.band is not None for curve in figure.curves):
        handles.append(Patch(color=palette.GREY, alpha=0.25, label="lowest to highest seed"))
    if any(curve.minor for curve in figure.curves):
        handles.append(
            Line2D([], [], color=palette.GREY, lw=0.9, alpha=0.6, label="thin: made for another run")
        )
    if figure.marks:
        handles.append(Line2D([], [], color=palette.INK, marker="v", linestyle="", label="collapse"))
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    _label_ends(canvas, axes, named)
    return canvas


def _ends(steps: Sequence[figures.Steps]) -> tuple[float, float]:
    """The first step and the last of any run: an axis ends where the runs do."""
    low, high = min(float(x[0]) for x in steps), max(float(x[-1]) for x in steps)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _label_ends(canvas: Canvas, axes: Axes, curves: Sequence[figures.Curve]) -> None:
    """The name of every curve beside its end, pushed apart where ends are close, with a line to its own."""
    size = 8.5 if len(curves) <= 18 else 7.0
    ends = []
    for curve in curves:
        finite = np.flatnonzero(np.isfinite(curve.y))
        if len(finite):
            ends.append((float(curve.x[finite[-1]]), float(curve.y[finite[-1]]), curve))
    labels = [
        axes.annotate(
            _short(curve.label), (1.03, 0.5), xycoords="axes fraction", color=curve.color, fontsize=size,
            va="center", annotation_clip=False,
        )
        for _, _, curve in ends
    ]  # fmt: skip
    FigureCanvasAgg(canvas).draw()  # type: ignore[no-untyped-call]  # the layout has made room for the names
    box = axes.get_window_extent()
    heights = [axes.transData.transform((x, y))[1] for x, y, _ in ends]
    spacing = size * 1.25 * canvas.dpi / 72
    for index, height in zip(
        np.argsort(heights), _apart(sorted(heights), spacing, box.y0, box.y1), strict=True
    ):
        place = float((height - box.y0) / box.height)
        labels[index].set_position((1.03, place))
        x, y, curve = ends[index]
        line = ConnectionPatch(
            (x, y), (1.024, place), "data", axes.transAxes, axesA=axes, color=curve.color, lw=0.5, alpha=0.55
        )
        line.set_in_layout(False)
        canvas.add_artist(line)
    canvas.set_layout_engine("none")


def _apart(heights: Sequence[float], spacing: float, low: float, high: float) -> list[float]:
    """Ascending ``heights`` pushed at least ``spacing`` apart, within ``low`` and ``high`` where they fit."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + spacing if found else low))
    limit = high
    for index in reversed(range(len(found))):
        found[index] = min(found[index], limit)
        limit = found[index] - spacing
    return found


def _head(canvas: Canvas, title: str) -> None:
    """What the picture says, above it from its left edge on."""
    canvas.suptitle(_wrapped(title), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _wrapped(title: str) -> str:
    """``title`` in lines that fit the picture."""
    return textwrap.fill(title, 92, break_long_words=True)


def _draw_heat(figure: figures.HeatFigure) -> Canvas:
    # Placed by hand, in inches: the automatic layout draws everything twice, and here that is seconds.
    heights = [_panel_height(len(panel.rows), alone=len(figure.panels) == 1) for panel in figure.panels]
    lines = _wrapped(figure.title).count("\n") + 1
    longest = max(len(row) for panel in figure.panels for row in panel.rows)
    left = min(0.35 + 0.075 * longest, 3.2)
    right, top, bottom, gap = 1.15, 0.65 + 0.2 * lines, 0.5, 0.42
    height = top + sum(heights) + gap * (len(heights) - 1) + bottom
    canvas = Canvas(figsize=(WIDTH, height))
    above, seen = top, set[str]()
    images = []
    for panel, inches in zip(figure.panels, heights, strict=True):
        bottom_edge = height - above - inches
        box = (left / WIDTH, bottom_edge / height, 1 - (left + right) / WIDTH, inches / height)
        axes = canvas.add_axes(box, sharex=canvas.axes[0] if canvas.axes else None)
        above += inches + gap
        images.append(_draw_panel(axes, figure, panel, seen))
        if panel is not figure.panels[-1]:
            axes.tick_params(axis="x", labelbottom=False)
    borders = [panel.borders for panel in figure.panels]
    # The axis is shared, and each panel has set it to its own run's length.
    canvas.axes[-1].set_xlim(min(first for first, _ in borders), max(last for _, last in borders))
    if len({last for _, last in borders}) > 1:
        seen.add("not measured")
    canvas.axes[-1].set_xlabel(figure.x_label)
    x, y = 0.12 / WIDTH, 1 - 0.12 / height
    canvas.suptitle(_wrapped(figure.title), x=x, y=y, ha="left", va="top", fontsize=10.5, fontweight="bold")
    length = min(sum(heights) + gap * (len(heights) - 1), 3.6)
    bar_axes = canvas.add_axes(
        (1 - 0.95 / WIDTH, (height - top - length) / height, 0.17 / WIDTH, length / height)
    )
    bar = canvas.colorbar(images[0], cax=bar_axes, label=figure.unit)
    bar.set_ticks(figure.scale.positions(), labels=figure.scale.labels())
    _explain_colors(canvas, seen, lines)
    return canvas


def _panel_height(rows: int, *, alone: bool) -> float:
    """Inches: a line of small type a row, or a fixed height where the rows are codes."""
    if rows > 32:
        return 2.6 if alone else 1.9
    return max(0.17 * rows, 1.7) if alone else max(0.125 * rows, 0.9)


def _draw_panel(axes: Axes, figure: figures.HeatFigure, panel: figures.Panel, seen: set[str]) -> AxesImage:
    """One heat map; ``seen`` collects which of the colours outside the scale occur."""
    scale, colors = figure.scale, _HEAT.reversed() if figure.high_is_good else _HEAT
    nonfinite = panel.measured & np.isnan(panel.values)
    zero = panel.measured & (panel.values == 0) if scale is figures.RARE else np.zeros_like(nonfinite)
    extent = (*panel.borders, len(panel.rows) - 0.5, -0.5)
    axes.set_facecolor(palette.MISSING)
    if not panel.measured.all():
        seen.add("not measured")
    shown = np.ma.masked_where(
        ~panel.measured | nonfinite | zero, np.clip(scale.forward(panel.values), scale.low, scale.high)
    )
    norm = Normalize(scale.low, scale.high)
    image = axes.imshow(shown, cmap=colors, norm=norm, extent=extent, aspect="auto", interpolation="nearest")
    for name, where in (("exactly 0", zero), ("not finite", nonfinite)):
        if where.any():
            seen.add(name)
            flat = LinearSegmentedColormap.from_list(name, [_OUTSIDE_THE_SCALE[name]] * 2)
            only = np.ma.masked_where(~where, where.astype(float))
            axes.imshow(only, cmap=flat, extent=extent, aspect="auto", interpolation="nearest")
    if panel.mark is not None:
        axes.axvline(panel.mark, color="white", linewidth=2.4)
        axes.axvline(panel.mark, color=palette.INK, linewidth=1.1, linestyle="--")
    _label_rows(axes, panel.rows)
    axes.set_title(textwrap.shorten(panel.title, 100, placeholder=" \N{HORIZONTAL ELLIPSIS}"), fontsize=8.5)
    axes.grid(visible=False)
    return image


def _explain_colors(canvas: Canvas, seen: set[str], lines: int) -> None:
    patches = [
        Patch(facecolor=color, edgecolor=palette.GREY, linewidth=0.6, label=name)
        for name, color in _OUTSIDE_THE_SCALE.items()
        if name in seen
    ]
    if patches:
        below = 1 - (0.16 + 0.2 * lines) / canvas.get_figheight()
        canvas.legend(handles=patches, loc="upper right", ncols=3, fontsize=8, bbox_to_anchor=(1.0, below))


def _label_rows(axes: Axes, rows: tuple[str, ...]) -> None:
    """Name every row, or about a dozen of them where they are many."""
    stride = 1 if len(rows) <= 32 else -(-len(rows) // 12)
    chosen = range(0, len(rows), stride)
    size = 7.5 if len(rows) <= 18 or stride > 1 else 5.5
    axes.set_yticks(list(chosen), labels=[rows[index] for index in chosen], fontsize=size)
    axes.tick_params(axis="y", length=0)


def _draw_clouds(figure: figures.CloudFigure) -> Canvas:
    canvas, axes = _canvas(5.2)
    scale = figure.scale
    ends = (scale.low, scale.high)
    axes.plot(ends, ends, color=palette.GREY, linewidth=1, linestyle="--")
    for cloud, marker in zip(figure.clouds, "osD^vPX*<>" * 9, strict=False):
        x, y = (np.clip(scale.forward(values), scale.low, scale.high) for values in (cloud.x, cloud.y))
        axes.plot(x, y, marker, color=cloud.color, alpha=0.55, ms=5, mew=0, label=_short(cloud.label))
    for axis, label in ((axes.xaxis, figure.x_label), (axes.yaxis, figure.y_label)):
        axis.set_ticks(scale.positions(), labels=scale.labels())
        axis.set_label_text(label)
    limits = (scale.low - 0.05, scale.high)
    _head(canvas, figure.title)
    axes.set(aspect="equal", xlim=limits, ylim=limits)
    axes.annotate(
        "as predicted", (0.9, 0.94), xycoords="axes fraction", ha="right", color=palette.GREY, fontsize=8
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return canvas


def _draw_spread(figure: figures.SpreadFigure) -> Canvas:
    canvas, axes = _canvas(0.34 * len(figure.rows) + 1.3)
    for index, row in enumerate(figure.rows):
        values = np.array(row.values)
        finite = values[np.isfinite(values)]
        if len(finite):
            ends, rows = [finite.min(), finite.max()], np.full(len(finite), index)
            axes.plot(ends, [index, index], color=row.color, lw=5, alpha=0.3, solid_capstyle="round")
            axes.plot(finite, rows, "o", color=row.color, ms=6, mec="white")
            if len(finite) > 1:
                axes.plot(finite.mean(), index, "|", color=row.color, markersize=17, markeredgewidth=2)
        else:
            axes.plot(0, index, "x", color=palette.NONFINITE, markersize=8, markeredgewidth=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.08), max(high, 1.08))
    for level, _ in figure.levels:
        axes.axvline(level, color=palette.GREY, linewidth=0.9, linestyle=":")
    _head(canvas, figure.title)
    axes.set_xlabel(figure.x_label)
    axes.set_yticks(range(len(figure.rows)), labels=[_short(row.label) for row in figure.rows])
    axes.set_ylim(len(figure.rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _name_levels(canvas, axes, figure.levels)
    return canvas


def _name_levels(canvas: Canvas, axes: Axes, levels: Sequence[tuple[float, str]]) -> None:
    """The name of each level above its line, a line of text higher where it would touch the one before it."""
    FigureCanvasAgg(canvas).draw()  # type: ignore[no-untyped-call]
    ends: list[float] = []  # of the last name in each line of text, pixels
    for level, name in levels:
        drawn = axes.annotate(
            name, (level, 1.0), (0, 2), ("data", "axes fraction"), "offset points",
            ha="center", va="bottom", fontsize=8,
        )  # fmt: skip
        extent = drawn.get_window_extent()
        row = next((row for row, end in enumerate(ends) if extent.x0 > end + 4), len(ends))
        ends[row : row + 1] = [extent.x1]
        drawn.xyann = (0, 2 + 10 * row)


def _draw_trades(figure: figures.TradeFigure) -> Canvas:
    """A panel a format on shared axes, the points of the others pale behind its own."""
    columns = min(3, len(figure.trades))
    rows = -(-len(figure.trades) // columns)
    canvas = Canvas(figsize=(WIDTH, 2.9 * rows + 0.9), layout="constrained")
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.ravel()[len(figure.trades) :]:
        axes.remove()
    for index, (axes, trade) in enumerate(zip(grid.ravel(), figure.trades, strict=False)):
        for other in figure.trades:
            axes.plot(other.x, other.y, "o", color=palette.PALE, ms=4, mew=0)
        axes.plot(trade.x, trade.y, "o", color=trade.color, ms=4.5, alpha=0.5, mew=0)
        front = trade.front
        halves = trade.half_widths[front]
        axes.errorbar(
            trade.x[front], trade.y[front], halves, color=trade.color, fmt="o-", lw=1.5, ms=6, mec="white",
            capsize=3,
        )  # fmt: skip
        axes.axhline(0, color=palette.INK, linewidth=0.9, linestyle=":")
        axes.set_title(trade.label, color=trade.color)
        axes.margins(x=0.45, y=0.25)
        axes.tick_params(labelbottom=index + columns >= len(figure.trades))
    _head(canvas, figure.title)
    canvas.supxlabel(figure.x_label, fontsize=9.5)
    canvas.supylabel(figure.y_label, fontsize=9.5)
    FigureCanvasAgg(canvas).draw()  # type: ignore[no-untyped-call]
    canvas.set_layout_engine("none")
    for axes, trade in zip(canvas.axes, figure.trades, strict=True):
        _name_points(canvas, axes, trade)
    return canvas


def _name_points(canvas: Canvas, axes: Axes, trade: figures.Trade) -> None:
    """The rules on the line of a format, each where no other name stands, with a line where it is far."""
    inside, taken = axes.get_window_extent(), list[Bbox]()
    for index in trade.front:
        for right, up in _OFFSETS:
            label = _named(axes, trade, index, right, up)
            box = label.get_window_extent(canvas.canvas.get_renderer())  # type: ignore[attr-defined]
            is_free = not any(box.overlaps(other) for other in taken)
            if (
                is_free
                and box.x0 >= inside.x0
                and box.x1 <= inside.x1
                and inside.y0 <= box.y0
                and box.y1 <= inside.y1
            ):
                taken.append(box)
                break
            label.remove()


def _named(axes: Axes, trade: figures.Trade, index: int, right: int, up: int) -> Annotation:
    side = "left" if right > 0 else "right" if right < 0 else "center"
    far = abs(up) > 12
    return axes.annotate(
        trade.names[index], (trade.x[index], trade.y[index]), xytext=(right, up), fontsize=7,
        textcoords="offset points", ha=side, va="center", color=palette.INK,
        arrowprops={"arrowstyle": "-", "lw": 0.4, "color": palette.GREY} if far else None,
    )  # fmt: skip


_OFFSETS = [(right, up * sign) for up in range(0, 109, 9) for sign in (1, -1) for right in (8, -8, 0)]
"""Places tried for a name, in points from its own, the nearest first."""


_DRAWERS: dict[type, Callable[..., Canvas]] = {
    figures.LineFigure: _draw_lines,
    figures.HeatFigure: _draw_heat,
    figures.CloudFigure: _draw_clouds,
    figures.SpreadFigure: _draw_spread,
    figures.TradeFigure: _draw_trades,
}
