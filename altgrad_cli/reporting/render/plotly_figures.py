"""Figures as plotly descriptions (plain dicts), for the page that is read in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from altgrad_cli.reporting.blocks import figures, palette
from altgrad_cli.reporting.blocks.thinning import nonfinite_points
from altgrad_cli.reporting.render.plotly_parts import (
    Description,
    axis,
    layout,
    numbers,
    scale_axis,
    thin_line,
)


def describe(figure: figures.Figure) -> Description:
    """``figure`` as ``{"data": ..., "layout": ...}``, ready for ``json.dumps``; absent numbers are null."""
    return _DESCRIBERS[type(figure)](figure)


def _lines(figure: figures.LineFigure) -> Description:
    data: list[Description] = []
    for curve in figure.curves:
        line = {"color": curve.color, "dash": "dash" if curve.dash else "solid"}
        if curve.faint is not None:
            data.append(
                _trace(
                    curve.x, curve.faint, curve.label, {**line, "width": 1}, opacity=0.25, hoverinfo="skip"
                )
            )
        hover = f"{curve.label}<br>step %{{x}}: %{{y:.4f}}<extra></extra>"
        width, opacity = (1.2, 0.65) if curve.minor else (2.2, 1)
        data.append(
            _trace(
                curve.x,
                curve.y,
                curve.label,
                {**line, "width": width},
                hovertemplate=hover,
                opacity=opacity,
                show=True,
            )
        )
        broken = nonfinite_points(curve.x, curve.y)
        if len(broken):
            data.append(
                {
                    **_trace(broken[:, 0], broken[:, 1], curve.label, {}),
                    "mode": "markers",
                    "marker": {"symbol": "x", "size": 9, "color": palette.NONFINITE},
                    "hovertemplate": f"{curve.label}<br>step %{{x}}: loss not finite<extra></extra>",
                }
            )
    data += [
        {
            **_trace([mark.x], [mark.y], mark.label, {}),
            "mode": "markers",
            "legendgroup": mark.run,
            "marker": {
                "symbol": "triangle-down",
                "size": 13,
                "color": mark.color,
                "line": {"color": "#FFF", "width": 1},
            },
            "hovertemplate": f"{mark.label}<extra></extra>",
        }
        for mark in figure.marks
    ]
    shapes = [thin_line(x0=m.x, x1=m.x, color=m.color) for m in figure.marks]
    shapes += [thin_line(y0=level, y1=level, color=palette.GREY) for level, _ in figure.levels]
    return {
        "data": data,
        "layout": layout(460, xaxis=axis(figure.x_label), yaxis=axis(figure.y_label), shapes=shapes),
    }


def _trace(x: Any, y: Any, name: str, line: Description, *, show: bool = False, **more: Any) -> Description:
    return {
        "type": "scattergl" if len(x) > 5000 else "scatter",
        "mode": "lines",
        "x": [int(value) for value in x],
        "y": numbers(y),
        "name": name,
        "legendgroup": name,
        "showlegend": show,
        "line": line,
        **more,
    }


def _heat(figure: figures.HeatFigure) -> Description:
    row, least = (20, 200) if len(figure.panels) == 1 else (15, 110)
    heights = [max(row * min(len(panel.rows), 26), least) for panel in figure.panels]
    gap, top = 46, 40
    total = sum(heights) + gap * (len(heights) - 1)
    arrangement = layout(
        total + top + 60, margin={"l": 150, "r": 24, "t": top, "b": 60}, annotations=[], shapes=[]
    )
    data: list[Description] = []
    above = 0.0
    for number, (panel, height) in enumerate(zip(figure.panels, heights, strict=True), start=1):
        suffix = "" if number == 1 else str(number)
        domain = [max(0.0, 1 - (above + height) / total), 1 - above / total]
        above += height + gap
        data += _panel_traces(figure, panel, suffix, min(300, total) if number == 1 else None)
        stride = 1 if len(panel.rows) <= 32 else -(-len(panel.rows) // 12)
        arrangement[f"yaxis{suffix}"] = axis(
            "", domain=domain, autorange="reversed", showgrid=False, anchor=f"x{suffix}", ticks="",
            type="category", tickvals=list(panel.rows[::stride]), tickfont={"size": 11},
        )  # fmt: skip
        last = number == len(figure.panels)
        arrangement[f"xaxis{suffix}"] = axis(
            figure.x_label if last else "", anchor=f"y{suffix}", showgrid=False, showticklabels=last,
            **({} if number == 1 else {"matches": "x"}),
        )  # fmt: skip
        arrangement["annotations"].append(
            {
                "text": f"<b>{panel.title}</b>", "xref": "paper", "yref": "paper", "x": 0, "y": domain[1],
                "xanchor": "left", "yanchor": "bottom", "yshift": 4, "showarrow": False,
            }
        )  # fmt: skip
        if panel.mark is not None:
            arrangement["shapes"].append(
                {
                    **thin_line(
                        x0=panel.mark, x1=panel.mark, color="#FFFFFF", xref=f"x{suffix}", yref=f"y{suffix}"
                    )
                }
            )
    return {"data": data, "layout": arrangement}


def _panel_traces(
    figure: figures.HeatFigure, panel: figures.Panel, suffix: str, length: int | None
) -> list[Description]:
    """The heat map of one panel, with a colour bar ``length`` pixels long, or None without."""
    scale = figure.scale
    nonfinite = panel.measured & np.isnan(panel.values)
    zero = panel.measured & (panel.values == 0) if scale is figures.RARE else np.zeros_like(nonfinite)
    z = np.where(
        panel.measured & ~nonfinite & ~zero,
        np.clip(scale.forward(panel.values), scale.low, scale.high),
        np.nan,
    )
    base = {
        "type": "heatmap",
        "x": [int(step) for step in panel.x],
        "y": list(panel.rows),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "hoverongaps": False,
    }
    bar = {
        "title": {"text": figure.unit, "side": "right"}, "tickvals": scale.positions(),
        "ticktext": scale.labels(), "thickness": 14, "outlinewidth": 0,
        "lenmode": "pixels", "len": length, "y": 1, "yanchor": "top",
    }  # fmt: skip
    traces = [
        {
            **base,
            "z": [numbers(row, 4) for row in z],
            "customdata": [numbers(row, 5) for row in panel.values],
            "zmin": scale.low,
            "zmax": scale.high,
            "colorscale": palette.plotly_scale(),
            "showscale": length is not None,
            **({"colorbar": bar} if length is not None else {}),
            "hovertemplate": "%{y}<br>step %{x}: %{customdata}<extra></extra>",
        }
    ]
    for where, color, word in (
        (zero, palette.ZERO, "exactly 0"),
        (nonfinite, palette.NONFINITE, "not finite"),
    ):
        if where.any():
            traces.append(
                {
                    **base,
                    "z": [[1 if cell else None for cell in row] for row in where],
                    "colorscale": [[0, color], [1, color]],
                    "showscale": False,
                    "hovertemplate": f"%{{y}}<br>step %{{x}}: {word}<extra></extra>",
                }
            )
    return traces


def _clouds(figure: figures.CloudFigure) -> Description:
    scale = figure.scale
    ends = (scale.low, scale.high)
    data: list[Description] = [
        {
            "type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "as predicted",
            "line": {"color": palette.GREY, "dash": "dash", "width": 1}, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    for cloud in figure.clouds:
        x, y = (numbers(np.clip(scale.forward(values), *ends)) for values in (cloud.x, cloud.y))
        words = [
            f"{name}<br>predicted {expected:.4g}, measured {found:.4g}"
            for name, expected, found in zip(cloud.names, cloud.x, cloud.y, strict=True)
        ]
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": x, "y": y, "name": cloud.label,
                "text": words, "hovertemplate": f"{cloud.label}<br>%{{text}}<extra></extra>",
                "marker": {"color": cloud.color, "size": 8, "opacity": 0.6},
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            520, xaxis=scale_axis(figure.x_label, scale), yaxis=scale_axis(figure.y_label, scale)
        ),
    }


def _spread(figure: figures.SpreadFigure) -> Description:
    data = [
        {
            "type": "scatter", "mode": "markers+lines", "x": numbers(sorted(row.values)),
            "y": [row.label] * len(row.values), "line": {"color": row.color, "width": 5}, "opacity": 0.75,
            "marker": {"color": row.color, "size": 10, "line": {"color": "#FFF", "width": 1}},
            "text": [name for _, name in sorted(zip(row.values, row.names, strict=True))],
            "hovertemplate": "%{text}: %{x:.3f}<extra></extra>", "showlegend": False,
        }
        for row in figure.rows
    ]  # fmt: skip
    annotations = [
        {
            "x": level,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "text": name,
            "showarrow": False,
            "font": {"size": 11},
        }
        for level, name in figure.levels
    ]
    return {
        "data": data,
        "layout": layout(
            36 * len(figure.rows) + 130,
            margin={"l": 190, "r": 24, "t": 44, "b": 52},
            xaxis=axis(figure.x_label),
            yaxis=axis("", autorange="reversed", showgrid=False),
            shapes=[thin_line(x0=level, x1=level, color=palette.GREY) for level, _ in figure.levels],
            annotations=annotations,
        ),
    }


_DESCRIBERS: dict[type, Callable[..., Description]] = {
    figures.LineFigure: _lines,
    figures.HeatFigure: _heat,
    figures.CloudFigure: _clouds,
    figures.SpreadFigure: _spread,
}
