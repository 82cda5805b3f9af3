"""Pictures: what they show against the log, how they are drawn, and what the pointer finds in them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.formats import parse_format
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.palette import FORMAT_COLORS, color_of
from altgrad_cli.reporting.blocks.thinning import bin_columns, nonfinite_points, smoothed, thin_curve
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.reporting.render.pictures import to_png, to_svg
from altgrad_cli.reporting.report import report_on
from altgrad_cli.runs.record import build_record

FLOATS = st.one_of(st.floats(-10, 10), st.just(math.nan))


@pytest.fixture(scope="module")
def all_figures(scope: Scope) -> list[figures.Figure]:
    return report_on(scope).figures


def test_every_picture_is_there(all_figures: list[figures.Figure]) -> None:
    keys = [figure.key for figure in all_figures]
    assert keys == [
        "recovered-fraction", "loss", "validation", "stall", "overflow", "underflow", "cosine",
        "codes-gradients", "predicted-stall",
    ]  # fmt: skip


def test_pictures_are_drawn_the_same_each_time(all_figures: list[figures.Figure]) -> None:
    for figure in all_figures:
        png = to_png(figure)
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(png) > 5_000, figure.key
        svg, _ = to_svg(figure)
        assert ElementTree.fromstring(svg).get("viewBox"), figure.key
        assert figure.title.split()[-1] in svg, "a long title stands in several lines"
    assert to_png(all_figures[0]) == to_png(all_figures[0])
    assert to_svg(all_figures[0]) == to_svg(all_figures[0])


def test_a_long_name_leaves_the_picture_its_room() -> None:
    """Matplotlib warns where nothing is left, and a warning fails; the path says how much is."""
    x = np.array([1, 2, 4])

    def width(name: str) -> float:
        curve = figures.Curve(name, x, x.astype(float), "#123456")
        svg, _ = to_svg(figures.LineFigure("k", "t", "step", "loss", (curve,)))
        (path,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: #123456', svg, flags=re.DOTALL)[:1]
        across = [float(point) for point in re.findall(r"[ML] ([\d.]+)", path)]
        return max(across) - min(across)

    assert width("n" * 200) == pytest.approx(width("n" * 40), rel=0.1)
    assert width("n" * 200) > width("short") / 2


def test_the_pointer_finds_what_is_drawn_there() -> None:
    """Against the drawing itself: the path of the curve in the SVG has the very points that have words."""
    x = np.array([1, 2, 4])
    curve = figures.Curve("run", x, np.array([3.0, math.nan, 1.5]), "#123456")
    svg, hover = to_svg(figures.LineFigure("k", "t", "step", "loss", (curve,)))
    (path,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: #123456', svg, flags=re.DOTALL)[:1]
    drawn = [float(number) for number in re.findall(r"[\d.]+", path)]
    box = [float(number) for number in (ElementTree.fromstring(svg).get("viewBox") or "").split()]
    (first, last) = hover["points"]
    assert [first[2], last[2]] == ["run\nstep 1: 3.0000", "run\nstep 4: 1.5000"]
    assert (first[0] * box[2], first[1] * box[3]) == pytest.approx(drawn[:2], abs=0.1)
    assert (last[0] * box[2], last[1] * box[3]) == pytest.approx(drawn[-2:], abs=0.1)


def test_the_pointer_finds_every_cell_of_a_heat_map() -> None:
    values = np.array([[0.5, math.nan, 0.25], [0.0, 1.0, math.nan]])
    measured = np.array([[True, True, True], [True, True, False]])
    long = figures.Panel("long", np.array([10.0, 20.0, 30.0]), ("a", "b"), values, measured)
    short = figures.Panel("short", np.array([10.0]), ("a", "b"), values[:, :1], measured[:, :1])
    _, hover = to_svg(figures.HeatFigure("k", "t", "step", "share", figures.RARE, (long, short)))
    first, second = hover["grids"]
    assert first["columns"] == [10, 20, 30]
    assert [row.split() for row in first["values"]] == [["0.5", "NaN", "0.25"], ["0", "1", "–"]]
    (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = first["box"], second["box"]
    assert 0 < left < right < 1
    assert 0 < top < bottom < top_2 < bottom_2 < 1
    # The two panels share an axis from 5 to 35; the short run's only column ends half a step after its own.
    assert (right_2 - left) / (right - left) == pytest.approx((10.5 - 5) / 30, abs=1e-3)
    assert (left_2 - left) / (right - left) == pytest.approx((9.5 - 5) / 30, abs=1e-3)


def test_a_loss_that_is_not_finite_is_drawn_where_it_broke_off(scope: Scope) -> None:
    figure = plots.loss_figure(scope.runs)
    assert figure is not None
    curve = next(curve for curve in figure.curves if curve.label == "e3m4-uniform")
    assert curve.x[-2:].tolist() == [69, 70]
    assert np.isnan(curve.y[-2:]).all()
    assert nonfinite_points(curve.x, curve.y).tolist() == [[69, curve.y[-3]], [70, curve.y[-3]]]
    assert "loss not finite" in to_svg(figure)[0]
    marks = {mark.label.partition(":")[0]: mark.x for mark in figure.marks}
    assert marks == {"e7m0-uniform": 80, "e3m4-uniform": 69}, "each collapse is marked where it was detected"


def test_a_heat_map_shows_the_log_and_what_is_missing(scope: Scope) -> None:
    log = scope.evidence.run("e7m0-uniform")
    figure = plots.layer_heat("stall", [log, scope.evidence.run("fp32")])
    assert figure is not None
    (panel,) = figure.panels
    assert len(panel.rows) == 4, "the head was never measured, and fp32 has no stall at all"
    assert panel.mark == 80
    column = log.layer_metrics["bit_stall_rate"]
    assert pytest.approx(column.values[:, :4]) == panel.values.T
    cosine = plots.layer_heat("cosine", [scope.evidence.run("e3m4-uniform")])
    assert cosine is not None
    assert np.isnan(cosine.panels[0].values[0, -2:]).all()
    assert cosine.panels[0].measured.all()
    svg, hover = to_svg(cosine)
    assert "not finite" in svg
    assert hover["grids"][0]["values"][0].split()[-2:] == ["NaN", "NaN"]


def test_overflow_is_that_of_the_role_in_which_it_is_largest(tmp_path: Path) -> None:
    layers = {"overflow_rate/activations": [0.5, None], "overflow_rate/gradients": [0.1, None]}
    started = {"event": "run_started", "step": 0, "layers": ["a", "b"], "config": {"fp8_format": "E5M2"}}
    step = {"event": "step", "step": 1, "metrics": {}, "layers": layers, "committed": True, "format": "E5M2"}
    other = {**step, "step": 2, "layers": {**layers, "overflow_rate/gradients": [0.9, 0.2]}}
    figure = plots.layer_heat("overflow", [build_record(tmp_path, [started, step, other], name="run")])
    assert figure is not None
    assert figure.panels[0].values[0].tolist() == [0.5, 0.9]
    assert figure.panels[0].measured.tolist() == [[True, True], [False, True]]
    assert figure.panels[0].values[1, 1] == 0.2


def test_codes_run_from_the_most_negative_to_the_largest() -> None:
    for name in ("E3M4", "E7M0", "E0M7", "E1M6"):
        fmt = parse_format(name)
        values = [fmt.to_real(int(code)) for code in plots.code_order(2**fmt.width)]
        assert values == sorted(values)


def test_a_shifted_run_is_drawn_as_long_as_its_codes_mean_the_same(scope: Scope) -> None:
    figure = plots.code_map([scope.evidence.run("e7m0-uniform-intervened")], "gradients")
    assert figure is not None
    assert figure.panels[0].x.tolist() == [20, 40]


def test_code_shares_add_up_to_one(scope: Scope) -> None:
    figure = plots.code_map([scope.evidence.run("e7m0-uniform")], "gradients")
    assert figure is not None
    panel = figure.panels[0]
    assert panel.values.shape == (257, 6)
    assert panel.values.sum(axis=0) == pytest.approx(np.ones(6))
    assert panel.rows[-1] == "NaN bin"


@given(st.lists(st.tuples(FLOATS, st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_bins_are_means_of_what_was_measured(cells: Sequence[tuple[float, bool]], limit: int) -> None:
    values = np.array([[value] for value, _ in cells])
    measured = np.array([[seen] for _, seen in cells])
    steps = np.arange(1, len(cells) + 1)
    middles, means, any_measured = bin_columns(steps, values, measured, limit)
    assert len(middles) == min(limit, len(cells)) == means.shape[1]
    borders = np.linspace(0, len(cells), len(middles) + 1).astype(int)
    for column in range(len(middles)):
        chunk = cells[borders[column] : borders[column + 1]]
        kept = [value for value, seen in chunk if seen]
        assert any_measured[0, column] == bool(kept)
        if kept:
            expected = math.fsum(kept) / len(kept) if not any(map(math.isnan, kept)) else math.nan
            assert means[0, column] == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_thinning_keeps_peaks_ends_and_what_is_not_finite() -> None:
    y = np.sin(np.arange(100_000) / 500)
    y[12_345], y[77_777] = 9.0, math.nan
    x, thin = thin_curve(np.arange(100_000), y, limit=1000)
    assert len(x) < 1100
    assert 9.0 in thin
    assert 77_777 in x
    assert x[0] == 0
    assert x[-1] == 99_999
    short = thin_curve(np.arange(5), y[:5])
    assert short[1] is not None
    assert short[1].tolist() == y[:5].tolist()


@given(st.lists(FLOATS, min_size=1, max_size=40), st.integers(0, 6))
def test_smoothing_never_lags_and_steps_over_what_is_not_finite(values: list[float], half_width: int) -> None:
    result = smoothed(np.array(values), half_width)
    for index, value in enumerate(values):
        reach = min(half_width, index, len(values) - 1 - index)
        near = [v for v in values[index - reach : index + reach + 1] if math.isfinite(v)]
        expected = math.fsum(near) / len(near) if math.isfinite(value) else math.nan
        assert result[index] == pytest.approx(expected, nan_ok=True, abs=1e-9)
    line = np.arange(20.0)
    assert smoothed(line, half_width) == pytest.approx(line)


def test_scales_tell_what_matters_apart() -> None:
    near_one = figures.NINES.forward(np.array([0.97, 0.997]))
    assert near_one[1] - near_one[0] == pytest.approx(1.0)
    assert np.isfinite(figures.NINES.forward(np.array([1.0]))).all()
    for scale in (figures.NINES, figures.RARE):
        assert scale.positions() == sorted(scale.positions())
        assert len(scale.labels()) == len(scale.ticks)


def _lightness(color: str) -> float:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_studys_formats_differ_in_colour() -> None:
    studied = [FORMAT_COLORS[name] for name in ("E5M2", "E3M4", "E1M6", "E0M7", "E7M0", "FP32", "BF16")]
    assert len(set(studied)) == len(studied)
    assert color_of("E3M4:ieee", "uniform") == FORMAT_COLORS["E3M4"]
    assert color_of("E5M2", "fp32") == FORMAT_COLORS["FP32"]
    assert all(_lightness(color) < 0.75 for color in studied), "each is seen on white"
