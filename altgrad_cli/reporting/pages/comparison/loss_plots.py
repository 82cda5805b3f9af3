"""Pictures of how well runs do: loss over steps, and recovered fraction with its spread."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from altgrad_cli.metrics.thresholds import FAILED_BELOW, TRAINED_FROM
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.thinning import MAX_POINTS, smoothed, thin_curve
from altgrad_cli.reporting.evidence.runs import Evidence
from altgrad_cli.reporting.evidence.windows import collapse_step
from altgrad_cli.reporting.pages.comparison.plots import STEP, run_color
from altgrad_cli.runs.record import RunRecord

LOSS = "loss (nats per token)"
FEW = 3
"""Runs up to which the raw losses are drawn too."""


def loss_figure(runs: Sequence[RunRecord], minor: Collection[str] = ()) -> figures.LineFigure | None:
    """Training loss, smoothed over about ten steps; of few runs the raw values too, pale; NaN is a cross.

    Runs named in ``minor`` are drawn thin. A collapse is marked at its step.
    """
    curves: list[figures.Curve] = []
    for log in runs:
        series = log.series("loss")
        if len(series):
            smooth = smoothed(series.values)
            faint = series.values if len(runs) <= FEW and len(series) <= MAX_POINTS else None
            curves.append(_curve(log, series.steps, smooth, curves, minor, faint))
    if not curves:
        return None
    by_label = {curve.label: curve for curve in curves}
    marks = [_mark(log, by_label[log.name]) for log in runs if log.name in by_label and collapse_step(log)]
    return figures.LineFigure("loss", "Training loss", STEP, LOSS, tuple(curves), tuple(marks))


def _curve(
    log: RunRecord,
    steps: figures.Steps,
    values: figures.Values,
    before: Sequence[figures.Curve],
    minor: Collection[str],
    faint: figures.Values | None = None,
) -> figures.Curve:
    """A run's curve; dashed where it shares its colour with one ``before`` it or lies on it, to be seen."""
    x, y = thin_curve(steps, values)
    color = run_color(log)
    dashed = any(curve.color == color or np.array_equal(y, curve.y, equal_nan=True) for curve in before)
    return figures.Curve(log.name, x, y, color, dashed, faint, log.name in minor)


def _mark(log: RunRecord, curve: figures.Curve) -> figures.Mark:
    step = collapse_step(log) or 0
    level = curve.y[np.isfinite(curve.y) & (curve.x <= step)]
    kind = (log.collapse or {}).get("class", "collapse")
    y = float(level[-1]) if len(level) else 0.0
    return figures.Mark(step, y, f"{log.name}: {kind}, step {step}", curve.color, log.name)


def validation_figure(runs: Sequence[RunRecord], minor: Collection[str] = ()) -> figures.LineFigure | None:
    """Validation loss of the deployed model of all runs; those named in ``minor`` are drawn thin."""
    curves: list[figures.Curve] = []
    for log in runs:
        if len(log.validation):
            curves.append(_curve(log, log.validation.steps, log.validation.values, curves, minor))
    if not curves:
        return None
    title = "Validation loss of the deployed model"
    return figures.LineFigure("validation", title, STEP, LOSS, tuple(curves))


def recovery_figure(
    evidence: Evidence, groups: Sequence[tuple[str, Sequence[RunRecord], int]]
) -> figures.SpreadFigure | None:
    """Recovered fraction of groups of runs (the seeds of one arm), each at the step given with it."""
    rows = []
    latest = max((step for _, _, step in groups), default=0)
    for label, runs, step in groups:
        found = [(evidence.recovered_fraction(log, step), log.name) for log in runs]
        values = [(rho, name) for rho, name in found if rho is not None]
        if values:
            rows.append(
                figures.Spread(
                    label if step == latest else f"{label} (step {step})",
                    tuple(rho for rho, _ in values),
                    tuple(name for _, name in values),
                    run_color(runs[0]),
                )
            )
    if not rows:
        return None
    return figures.SpreadFigure(
        "recovered-fraction",
        f"Recovered fraction of the validation loss at step {latest}",
        "rho: 0 = linear layers frozen, 1 = float32",
        tuple(rows),
        ((0.0, "frozen"), (FAILED_BELOW, "failed below"), (TRAINED_FROM, "trained from"), (1.0, "fp32")),
    )
