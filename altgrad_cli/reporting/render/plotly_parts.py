"""What all plotly descriptions have in common: axes, layout, numbers, thin lines."""

from __future__ import annotations

import math
from typing import Any

from altgrad_cli.reporting.blocks import figures, palette

FONT = "Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # Named one by one, so that no button is there that would send the chart to a server.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
}

Description = dict[str, Any]


def axis(title: str, **more: Any) -> Description:
    """An axis with its title; ``more`` adds or replaces properties."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": palette.PALE,
        "zeroline": False,
        "linecolor": palette.GREY,
        "ticks": "outside",
        "tickcolor": palette.PALE,
        "automargin": True,
        **more,
    }


def layout(height: int, **more: Any) -> Description:
    """What surrounds the data, ``height`` pixels high; ``more`` adds or replaces properties."""
    return {
        "height": height,
        "margin": {"l": 64, "r": 24, "t": 24, "b": 52},
        "font": {"family": FONT, "size": 13, "color": palette.INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "#FFFFFF",
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "legend": {"orientation": "v", "x": 1.01, "y": 1},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#AEB6BF", "activecolor": palette.BLUE},
        **more,
    }


def scale_axis(title: str, scale: figures.Scale, **more: Any) -> Description:
    """An axis on which a scale\'s transformed values stand under their untransformed names."""
    return axis(
        title,
        tickvals=scale.positions(),
        ticktext=scale.labels(),
        range=[scale.low - 0.05 * (scale.high - scale.low), scale.high],
        **more,
    )


def numbers(values: Any, digits: int = 6) -> list[Any]:
    """Values as JSON numbers with ``digits`` significant digits; what is not finite is null."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def thin_line(
    *,
    x0: float = 0,
    x1: float = 1,
    y0: float = 0,
    y1: float = 1,
    color: str,
    xref: str = "x",
    yref: str = "y",
) -> Description:
    """A thin line across the plot: upright where only x is given, level where only y is."""
    upright = (y0, y1) == (0, 1)
    return {
        "type": "line",
        "xref": xref if upright else "paper",
        "yref": f"{yref} domain" if upright else yref,
        "x0": x0,
        "x1": x1,
        "y0": y0,
        "y1": y1,
        "line": {"color": color, "width": 1, "dash": "dot"},
    }
