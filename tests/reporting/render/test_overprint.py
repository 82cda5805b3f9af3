"""No text of a picture lies over another or is cut: by matplotlib's own extents, in every kind of figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.render.pictures import draw
from altgrad_cli.reporting.report import build_report
from tests.reporting.recorded import record_sweep

SLACK = 1.0
"""Pixels by which two boxes may share: a box is a little larger than its letters."""


def texts(canvas: Canvas) -> Iterator[Text]:
    """Every text of a picture that has been drawn; of ticks those within their axis."""
    yield from canvas.texts
    for legend in canvas.legends:
        yield from legend.get_texts()
    for axes in canvas.axes:
        yield from axes.texts
        yield from (
            child for child in axes.get_children() if isinstance(child, Text) and child not in axes.texts
        )
        for axis in (axes.xaxis, axes.yaxis):
            yield axis.label
            yield from (tick.label1 for tick in axis._update_ticks())  # type: ignore[attr-defined]
            yield from (tick.label2 for tick in axis._update_ticks())  # type: ignore[attr-defined]


def boxes(canvas: Canvas) -> Iterator[tuple[str, Bbox]]:
    """Every text that is seen, and where it stands."""
    renderer = FigureCanvasAgg(canvas).get_renderer()
    canvas.draw(renderer)
    for text in texts(canvas):
        if text.get_visible() and text.get_text().strip():
            yield text.get_text(), text.get_window_extent(renderer)


def faults(canvas: Canvas) -> list[str]:
    """Texts that are cut by the picture's edge, and pairs that overlap."""
    found = list(boxes(canvas))
    width, height = canvas.bbox.size
    cut = [
        f"cut: {text!r}"
        for text, box in found
        if min(box.x0, box.y0) < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK
    ]
    over = [
        f"overlap: {one!r} and {other!r}"
        for (one, a), (other, b) in combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK
    ]
    return cut + over


@pytest.fixture(scope="module")
def one_seed(sweep: Path) -> list[figures.Figure]:
    return [*build_report([sweep]).figures, *build_report([sweep / "e7m0-uniform"]).figures]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_sweep(tmp_path_factory.mktemp("three") / "sweep", seeds=(42, 43, 44))


@pytest.fixture(scope="module")
def three_seeds(three: Path) -> list[figures.Figure]:
    return build_report([three]).figures


def many_arms() -> list[figures.Figure]:
    """24 arms with long names, which end close together; rules of several formats with the same bits."""
    x = np.arange(1, 50)
    names = [f"e{n % 7}m{7 - n % 7}-uniform-learning_rate-{n}e-4-stochastic-rounding" for n in range(24)]
    curves = tuple(figures.Curve(name, x, 3 - x / 50 + n / 500, "#0072B2") for n, name in enumerate(names))
    spreads = tuple(figures.Spread(name, (0.1, 0.2), ("a", "b"), "#0072B2") for name in names)
    rules = ("adamw", "adamw+sr", "compensated", "eco+stochastic", "stiff_gradient", "code_step", "madam")
    bits = np.array([72.0, 72, 104, 80, 88, 96, 40])
    gaps = np.array([0.25, 0.3, 0.0, 0.18, 0.12, 0.06, 0.3])
    trades = tuple(
        figures.Trade(name, bits, gaps + n / 90, np.full(7, 0.02), rules, "#009E73")
        for n, name in enumerate(("FP32", "E5M2", "E3M4", "E1M6", "E0M7", "E7M0"))
    )
    return [
        figures.LineFigure("many", f"Training loss: {names[0]}, {names[1]}", "step", "loss", curves),
        figures.SpreadFigure(
            "spread", "Recovered fraction", "rho", spreads, ((0.0, "frozen"), (1.0, "fp32"))
        ),
        figures.SpreadFigure("wide", "Recovered fraction", "rho", _wide(spreads), LEVELS),
        figures.TradeFigure("trade", "Lowest: E5M2", "bits", "nats", trades),
        figures.TradeFigure("close", "Lowest: E5M2", "bits", "nats", (trades[0], *map(_close, trades[1:3]))),
    ]


LEVELS = ((0.0, "frozen"), (0.5, "failed below"), (0.9, "trained from"), (1.0, "fp32"))


def _wide(spreads: tuple[figures.Spread, ...]) -> tuple[figures.Spread, ...]:
    """``spreads`` with one run so far off that the levels come close to each other."""
    return (replace(spreads[0], values=(-4.0, 2.0)), *spreads[1:])


def _close(trade: figures.Trade) -> figures.Trade:
    """Four points of ``trade`` that all but lie on each other, so that their names cannot all stand there."""
    x, y = 72.0 + np.arange(4), 0.01 - np.arange(4) / 1000
    return replace(trade, x=x, y=y, half_widths=np.zeros(4), names=trade.names[2:6])


def test_nothing_is_cut_or_overprinted_with_one_seed(one_seed: list[figures.Figure]) -> None:
    assert {figure.key: found for figure in one_seed if (found := faults(draw(figure)))} == {}


def test_nothing_is_cut_or_overprinted_with_three_seeds(three_seeds: list[figures.Figure]) -> None:
    assert {figure.key: found for figure in three_seeds if (found := faults(draw(figure)))} == {}


@pytest.mark.parametrize("figure", many_arms(), ids=lambda figure: figure.key)
def test_nothing_is_cut_or_overprinted_with_many_arms(figure: figures.Figure) -> None:
    assert faults(draw(figure)) == []


def test_no_name_of_a_point_is_left_out_to_make_room() -> None:
    for figure in many_arms():
        if isinstance(figure, figures.TradeFigure):
            for axes, trade in zip(draw(figure).axes, figure.trades, strict=True):
                wanted = sorted(trade.names[index] for index in trade.front)
                assert len(wanted) >= 4
                assert sorted(text.get_text() for text in axes.texts) == wanted


def test_a_collapse_of_a_seed_is_marked_on_the_mean(three_seeds: list[figures.Figure]) -> None:
    loss = next(figure for figure in three_seeds if figure.key == "loss")
    assert isinstance(loss, figures.LineFigure)
    assert sum(mark.label.startswith("e7m0-uniform-seed") for mark in loss.marks) == 3


def test_the_mean_and_the_band_are_those_of_the_logs(three: Path, three_seeds: list[figures.Figure]) -> None:
    """Against a plain loop over the evaluations in the files."""
    by_step: dict[int, list[float]] = {}
    for seed in (42, 43, 44):
        for line in (three / f"e7m0-uniform-seed{seed}" / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "evaluated":
                by_step.setdefault(event["step"], []).append(event["validation_loss"])
    figure = next(figure for figure in three_seeds if figure.key == "validation")
    assert isinstance(figure, figures.LineFigure)
    curve = next(curve for curve in figure.curves if curve.label == "E7M0")
    assert curve.band is not None
    assert curve.x.tolist() == sorted(by_step)
    for step, mean, low, high in zip(curve.x, curve.y, *curve.band, strict=True):
        values = by_step[int(step)]
        assert (mean, low, high) == pytest.approx((sum(values) / 3, min(values), max(values)))


def test_seeds_are_one_curve_with_a_band(three_seeds: list[figures.Figure]) -> None:
    loss = next(figure for figure in three_seeds if figure.key == "loss")
    assert isinstance(loss, figures.LineFigure)
    curve = next(curve for curve in loss.curves if curve.label == "E5M2")
    assert curve.band is not None
    assert (curve.band[0] <= curve.y).all() and (curve.y <= curve.band[1]).all()
    assert not any("-seed43" in curve.label for curve in loss.curves)


def test_a_cut_and_an_overlap_would_be_found(one_seed: list[figures.Figure]) -> None:
    figure = next(figure for figure in one_seed if isinstance(figure, figures.LineFigure))
    canvas = draw(figure)
    canvas.text(0.98, 0.5, "far over the edge of the picture")
    assert any(fault.startswith("cut") for fault in faults(canvas))
    canvas = draw(replace(figure, title="plain"))
    canvas.text(0.01, 0.97, "over the title")
    assert any("over the title" in fault for fault in faults(canvas))
