"""Figures drawn with matplotlib: PNG for Markdown, SVG for the page.

Without pyplot, whose state is global.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

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
    canvas, axes = _canvas(4.6)
    for curve in figure.curves:
        style = (0, (5, 2)) if curve.dash else "-"
        if curve.faint is not None:
            axes.plot(curve.x, curve.faint, color=curve.color, alpha=0.22, linewidth=0.7, linestyle=style)
        width, alpha = (0.9, 0.6) if curve.minor else (1.7, 1.0)
        label = "_" if curve.minor else _short(curve.label)  # an underscore keeps it out of the legend
        axes.plot(curve.x, curve.y, color=curve.color, lw=width, alpha=alpha, ls=style, label=label)
        broken = nonfinite_points(curve.x, curve.y)
        if len(broken):
            axes.plot(*broken.T, "x", color=palette.NONFINITE, markersize=7, markeredgewidth=1.8, zorder=5)
    for mark in figure.marks:
        axes.axvline(mark.x, color=mark.color, linewidth=0.9, linestyle=":")
        axes.plot(mark.x, mark.y, "v", color=mark.color, markersize=9, markeredgecolor="white", zorder=6)
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    axes.margins(x=0.01)
    handles = axes.get_legend_handles_labels()[0]
    if any(np.isnan(curve.y).any() for curve in figure.curves):
        handles.append(
            Line2D([], [], color=palette.NONFINITE, marker="x", linestyle="", label="loss not finite")
        )
    if any(curve.minor for curve in figure.curves):
        handles.append(
            Line2D([], [], color=palette.GREY, lw=0.9, alpha=0.6, label="thin: made for another run")
        )
    if figure.marks:
        handles.append(Line2D([], [], color=palette.INK, marker="v", linestyle="", label="collapse"))
    if handles:
        size = 8.5 if len(handles) <= 18 else 6.5
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=size)
    return canvas


def _draw_heat(figure: figures.HeatFigure) -> Canvas:
    # Placed by hand, in inches: the automatic layout draws everything twice, and here that is seconds.
    heights = [_panel_height(len(panel.rows), alone=len(figure.panels) == 1) for panel in figure.panels]
    left, right, top, bottom, gap = 1.45, 1.15, 0.75, 0.5, 0.42
    height = top + sum(heights) + gap * (len(heights) - 1) + bottom
    canvas = Canvas(figsize=(WIDTH, height))
    above, seen = top, set[str]()
    images = []
    for panel, inches in zip(figure.panels, heights, strict=True):
        bottom_edge = height - above - inches
        box = (left / WIDTH, bottom_edge / height, 1 - (left + right) / WIDTH, inches / height)
        axes = canvas.add_axes(box, sharex=canvas.axes[0] if canvas.axes else None)
        above += inches + gap
        images.append(_draw_panel(axes, figure.scale, panel, seen))
        if panel is not figure.panels[-1]:
            axes.tick_params(axis="x", labelbottom=False)
    borders = [panel.borders for panel in figure.panels]
    # The axis is shared, and each panel has set it to its own run's length.
    canvas.axes[-1].set_xlim(min(first for first, _ in borders), max(last for _, last in borders))
    if len({last for _, last in borders}) > 1:
        seen.add("not measured")
    canvas.axes[-1].set_xlabel(figure.x_label)
    x, y = 0.12 / WIDTH, 1 - 0.12 / height
    canvas.suptitle(figure.title, x=x, y=y, ha="left", va="top", fontsize=11.5, fontweight="bold")
    length = min(sum(heights) + gap * (len(heights) - 1), 3.6)
    bar_axes = canvas.add_axes(
        (1 - 0.95 / WIDTH, (height - top - length) / height, 0.17 / WIDTH, length / height)
    )
    bar = canvas.colorbar(images[0], cax=bar_axes, label=figure.unit)
    bar.set_ticks(figure.scale.positions(), labels=figure.scale.labels())
    _explain_colors(canvas, seen)
    return canvas


def _panel_height(rows: int, *, alone: bool) -> float:
    """Inches: a line of small type a row, or a fixed height where the rows are codes."""
    if rows > 32:
        return 2.6 if alone else 1.9
    return max(0.17 * rows, 1.7) if alone else max(0.125 * rows, 0.9)


def _draw_panel(axes: Axes, scale: figures.Scale, panel: figures.Panel, seen: set[str]) -> AxesImage:
    """One heat map; ``seen`` collects which of the colours outside the scale occur."""
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
    image = axes.imshow(shown, cmap=_HEAT, norm=norm, extent=extent, aspect="auto", interpolation="nearest")
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
    axes.set_title(panel.title)
    axes.grid(visible=False)
    return image


def _explain_colors(canvas: Canvas, seen: set[str]) -> None:
    patches = [
        Patch(facecolor=color, edgecolor=palette.GREY, linewidth=0.6, label=name)
        for name, color in _OUTSIDE_THE_SCALE.items()
        if name in seen
    ]
    if patches:
        canvas.legend(handles=patches, loc="upper right", ncols=3, fontsize=8)


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
    axes.set(title=figure.title, aspect="equal", xlim=limits, ylim=limits)
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
    for (level, name), (after, _) in pairwise([*figure.levels, (np.inf, "")]):
        axes.axvline(level, color=palette.GREY, linewidth=0.9, linestyle=":")
        side = "right" if after - level < 0.15 else "center"  # room for the name of the next one
        axes.annotate(
            name, (level, 1.0), xycoords=("data", "axes fraction"), ha=side, va="bottom", fontsize=8
        )
    axes.set_title(figure.title, pad=20)
    axes.set_xlabel(figure.x_label)
    axes.set_yticks(range(len(figure.rows)), labels=[_short(row.label) for row in figure.rows])
    axes.set_ylim(len(figure.rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return canvas


def _draw_trades(figure: figures.TradeFigure) -> Canvas:
    canvas, axes = _canvas(5.4)
    for trade in figure.trades:
        front = trade.front
        axes.plot(trade.x, trade.y, "o", color=trade.color, ms=4, alpha=0.35, mew=0)
        x, y = trade.x[front], trade.y[front]
        axes.errorbar(
            x, y, trade.half_widths[front], color=trade.color, fmt="o-", lw=1.7, ms=7, mec="white", capsize=3
        )
        axes.annotate(
            f" {trade.label}", (x[-1], y[-1]), xytext=(8, 0), textcoords="offset points", va="center",
            color=trade.color, fontweight="bold",
        )  # fmt: skip
        for index in front:
            axes.annotate(
                trade.names[index], (trade.x[index], trade.y[index]), xytext=(0, 7), fontsize=7,
                textcoords="offset points", ha="center", color=trade.color,
            )  # fmt: skip
    axes.axhline(0, color=palette.INK, linewidth=0.9, linestyle=":")
    axes.margins(x=0.12, y=0.1)
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    return canvas


_DRAWERS: dict[type, Callable[..., Canvas]] = {
    figures.LineFigure: _draw_lines,
    figures.HeatFigure: _draw_heat,
    figures.CloudFigure: _draw_clouds,
    figures.SpreadFigure: _draw_spread,
    figures.TradeFigure: _draw_trades,
}
