"""What a report draws: losses, rates by layer and step, use of codes, predictions, spread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS, Role
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.metrics.noise import paired_interval
from altgrad_cli.metrics.thresholds import FAILED_BELOW, TRAINED_FROM
from altgrad_cli.metrics.verdict import loss_scale
from altgrad_cli.notation import format_value, short_layer
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import Picture, Text, picture
from altgrad_cli.reporting.blocks.palette import color_of
from altgrad_cli.reporting.blocks.thinning import MAX_POINTS, bin_columns, smoothed, thin_curve
from altgrad_cli.reporting.evidence.quantities import studied_format
from altgrad_cli.reporting.evidence.runs import Evidence
from altgrad_cli.reporting.evidence.windows import collapse_step
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.runs.series import LayerSeries

STEP = "training step"
FEW = 3
"""Runs up to which the raw losses are drawn too."""
ROLE_WORDS = {role: role.replace("_", " ") for role in REGIME_ROLES["uniform"]}
ROLE_WORDS["gradients"] = "output gradients"
ROLE_KEY = ", ".join(f"{ROLE_LETTERS[role]} {words}" for role, words in ROLE_WORDS.items())


def loss_axis(runs: Iterable[RunRecord]) -> str:
    """What stands beside an axis of the losses of ``runs``."""
    units = sorted({loss_scale(log.subject).unit for log in runs})
    return f"loss ({' or '.join(units)})"


def run_color(log: RunRecord) -> str:
    """The colour of a run: that of its format."""
    return color_of(studied_format(log) or "", log.control)


_HEATS: dict[str, tuple[tuple[str, ...], str, str, figures.Scale]] = {
    "stall": (("bit_stall_rate",), "Bit-stall by layer and step", "share of updates", figures.NINES),
    "overflow": (
        tuple(f"overflow_rate/{role}" for role in ROLE_WORDS),
        "Overflow by layer and step, largest of the roles",
        "share of values",
        figures.RARE,
    ),
    "underflow": (
        tuple(f"underflow_rate/{role}" for role in ROLE_WORDS),
        "Underflow by layer and step, largest of the roles",
        "share of values",
        figures.RARE,
    ),
    "cosine": (
        ("gradient_cosine",),
        "Gradient against its float32 shadow, by layer and step (dark is apart)",
        "cosine",
        figures.NINES,
    ),
}
"""Key of a heat map -> the metrics of which it shows the largest, its title, its unit and its scale."""


def layer_heat(key: str, runs: Sequence[RunRecord]) -> figures.HeatFigure | None:
    """The heat map ``key`` by layer and step, a panel a run; None where no run measured its metrics."""
    metrics, title, unit, scale = _HEATS[key]
    panels = []
    for log in runs:
        column = _largest([log.layer_metrics[metric] for metric in metrics if metric in log.layer_metrics])
        if column is None or not column.measured.any():
            continue
        shown = np.asarray(column.measured.any(axis=0))
        x, values, measured = bin_columns(log.steps, column.values[:, shown], column.measured[:, shown])
        names = tuple(short_layer(name) for name, seen in zip(log.layers, shown, strict=True) if seen)
        panels.append(
            figures.Panel(panel_title(log), x.astype(float), names, values, measured, collapse_step(log))
        )
    if not panels:
        return None
    title = f"{title}: {_range_words(panels)}"
    return figures.HeatFigure(key, title, STEP, unit, scale, tuple(panels), high_is_good=key == "cosine")


def _range_words(panels: Sequence[figures.Panel]) -> str:
    """The lowest and the highest mean of any panel, by name."""
    means = {panel.title.partition(":")[0]: float(np.mean(panel.values[panel.measured])) for panel in panels}
    low, high = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    if low == high or means[low] == means[high]:
        return f"mean {format_value(means[low])}"
    return f"mean {format_value(means[low])} ({low}) to {format_value(means[high])} ({high})"


def heat_block(key: str, runs: Sequence[RunRecord], caption: str = "") -> Picture | Text | None:
    """The heat map ``key`` with its caption; in words where all of it would have the colour of zero."""
    figure = layer_heat(key, runs)
    if figure is None or any((panel.values[panel.measured] != 0).any() for panel in figure.panels):
        return picture(figure, caption)
    return Text(f"{_HEATS[key][1]}: exactly zero wherever it was measured.")


def _largest(columns: Sequence[LayerSeries]) -> LayerSeries | None:
    """Of columns of one shape the largest value measured, cell by cell; NaN stays NaN."""
    if len(columns) < 2:
        return columns[0] if columns else None
    low = np.array([np.where(column.measured, column.values, -np.inf) for column in columns])
    measured = np.any([column.measured for column in columns], axis=0)
    return LayerSeries(np.where(measured, low.max(axis=0), np.nan), measured)


def panel_title(log: RunRecord) -> str:
    """A run's name and the grid it means."""
    return f"{log.name}: {parse_format(log.format).describe() if log.format else 'no format'}"


def code_order(count: int) -> NDArray[np.int64]:
    """Sign-magnitude codes from the most negative to the largest value."""
    half = count // 2
    return np.concatenate([np.arange(count - 1, half - 1, -1), np.arange(half)])


def code_map(runs: Sequence[RunRecord], role: Role = "stored_weights") -> figures.HeatFigure | None:
    """Share of a role's values on each code, over the steps at which the codes were counted.

    A run is drawn as long as it had its first format: after a shift the codes mean other numbers.
    """
    panels = []
    for log in runs:
        snapshots = log.histograms.get(role)
        if not snapshots:
            continue
        fmt = parse_format(log.format or "E5M2")
        size = 2**fmt.width + 1
        shift = min((step for step, name in log.formats if name != log.format), default=math.inf)
        steps = [step for step, counts in sorted(snapshots.items()) if len(counts) == size and step <= shift]
        if not steps:
            continue
        counts = np.array([snapshots[step] for step in steps], dtype=np.float64)
        shares = counts / counts.sum(axis=1, keepdims=True)
        codes, nan_bin = shares[:, :-1][:, code_order(size - 1)], shares[:, -1:]
        # Most positive value on top, and the NaN bin below everything.
        values = np.concatenate([codes[:, ::-1], nan_bin], axis=1).T
        rows = (*[_code_label(fmt, int(code)) for code in code_order(size - 1)[::-1]], "NaN bin")
        panels.append(
            figures.Panel(
                panel_title(log),
                np.array(steps, dtype=float),
                rows,
                values,
                np.ones(values.shape, bool),
                collapse_step(log),
            )
        )
    if not panels:
        return None
    used = {panel.title.partition(":")[0]: float((panel.values[:-1, -1] > 0).mean()) for panel in panels}
    low, high = min(used, key=lambda name: used[name]), max(used, key=lambda name: used[name])
    last = f"{used[low]:.0%} ({low})" + (f" to {used[high]:.0%} ({high})" if used[low] < used[high] else "")
    title = f"Codes in use by {ROLE_WORDS[role]} ({ROLE_LETTERS[role]}) of all layers, in the end: {last}"
    return figures.HeatFigure(
        f"codes-{role}", title, STEP, "share of the values", figures.RARE, tuple(panels)
    )


def _code_label(fmt: FP8Format, code: int) -> str:
    # With the code itself: several codes may print as one value, and rows must not be taken for each other.
    negative = "−" if code & fmt.sign_mask else ""
    return f"{negative}{format_value(abs(fmt.to_real(code)))} · 0x{code:02x}"


def prediction_figure(runs: Sequence[RunRecord]) -> figures.CloudFigure | None:
    """Bit-stall predicted from the weights against the one measured, a point a layer and interval."""
    clouds = [
        _pooled(label, found)
        for label, members in _by_seeds(runs).items()
        if (found := [cloud for log in members if (cloud := _predictions(log)) is not None])
    ]
    if not clouds or (len(clouds) == 1 and len(clouds[0].x) == 1):
        return None
    off = {cloud.label: float(np.mean(np.abs(cloud.y - cloud.x))) for cloud in clouds}
    worst = max(off, key=lambda name: off[name])
    return figures.CloudFigure(
        "predicted-stall",
        f"Bit-stall, predicted and measured: {off[worst]:.2g} apart on average where it is worst ({worst})",
        "predicted (share of the updates)",
        "measured (share of the updates)",
        figures.NINES,
        tuple(clouds),
    )


def _pooled(label: str, clouds: Sequence[figures.Cloud]) -> figures.Cloud:
    """The points of all seeds of an arm, under its name."""
    if len(clouds) == 1:
        return clouds[0]
    return figures.Cloud(
        label,
        np.concatenate([cloud.x for cloud in clouds]),
        np.concatenate([cloud.y for cloud in clouds]),
        tuple(f"{name} of {cloud.label}" for cloud in clouds for name in cloud.names),
        clouds[0].color,
    )


def _predictions(log: RunRecord) -> figures.Cloud | None:
    """Layer by layer or, where that was not measured, the whole run by its initial weights and its end."""
    predicted = log.layer_metrics.get("predicted_stall_rate")
    measured = log.layer_metrics.get("bit_stall_rate")
    if predicted is not None and measured is not None:
        both = predicted.measured & measured.measured
        rows, layers = (where[:: max(1, both.sum() // MAX_POINTS)] for where in np.nonzero(both))
        x, y = predicted.values[rows, layers], measured.values[rows, layers]
        names = [
            f"{short_layer(log.layers[layer])}, step {log.steps[row]}"
            for row, layer in zip(rows, layers, strict=True)
        ]
    else:
        expected, end = log.predicted_stall.get("long_run"), log.end("bit_stall_rate")
        if expected is None or end is None:
            return None
        x, y, names = np.array([expected]), np.array([end]), ["whole run, at its end"]
    return figures.Cloud(log.name, x, y, tuple(names), run_color(log)) if names else None


def loss_figure(
    runs: Sequence[RunRecord],
    minor: Collection[str] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
    text: str = "",
) -> figures.LineFigure | None:
    """Training loss, smoothed over about ten steps; of few runs the raw values too, pale; NaN is a cross.

    Runs that differ in their seed are one curve, their mean, called as ``labels`` has it. ``text`` is named
    where every text has a picture of its own. Runs named in ``minor`` are drawn thin. A
    collapse is marked at its step, one of a seed on the mean.
    """
    curves: list[figures.Curve] = []
    marks: list[figures.Mark] = []
    for label, members in _by_seeds(runs, labels).items():
        found = (log.series("loss") for log in members)
        each = [(series.steps, smoothed(series.values)) for series in found if len(series)]
        if not each:
            continue
        few = len(runs) <= FEW and len(each[0][0]) <= MAX_POINTS
        faint = members[0].series("loss").values if few and len(each) == 1 else None
        curve = _curve(label, members, each, curves, minor, faint)
        curves.append(curve)
        marks += [_mark(log, curve) for log in members if collapse_step(log)]
    if not curves:
        return None
    title = f"Training loss{text and f' on {text}'}: {_ends_words(curves)}"
    return figures.LineFigure(
        f"loss{text and f'-{text}'}", title, STEP, loss_axis(runs), tuple(curves), tuple(marks)
    )


def _by_seeds(
    runs: Sequence[RunRecord], labels: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[RunRecord]]:
    """Runs that differ in nothing but their seed, by the label or the name that they share."""
    named: dict[tuple[str, str], list[RunRecord]] = {}
    for log in runs:
        config = repr(sorted((key, repr(value)) for key, value in log.config.items() if key != "seed"))
        named.setdefault((log.name.replace(f"-seed{log.seed}", ""), config), []).append(log)
    names = [
        labels.get(members[0].name, name if len(members) > 1 else members[0].name)
        for (name, _), members in named.items()
    ]
    alone = Counter(names)
    return {
        label if alone[label] == 1 else members[0].name: members
        for label, members in zip(names, named.values(), strict=True)
    }


def _ends_words(curves: Sequence[figures.Curve]) -> str:
    """The lowest and the highest last value of the curves that go furthest, by name."""
    last = max(int(curve.x[-1]) for curve in curves)
    ends = {c.label: float(c.y[-1]) for c in curves if int(c.x[-1]) == last and math.isfinite(c.y[-1])}
    if not ends:
        return f"none is finite at step {last}"
    low, high = min(ends, key=lambda name: ends[name]), max(ends, key=lambda name: ends[name])
    if len(ends) == 1:
        return f"{low} {ends[low]:.3f} at step {last}"
    return f"{low} {ends[low]:.3f} is lowest at step {last}, {high} {ends[high]:.3f} highest"


def _curve(
    label: str,
    members: Sequence[RunRecord],
    each: Sequence[tuple[figures.Steps, figures.Values]],
    before: Sequence[figures.Curve],
    minor: Collection[str],
    faint: figures.Values | None = None,
) -> figures.Curve:
    """The mean of the seeds in ``each`` at the steps they share, with the lowest and the highest.

    Dashed where it shares its colour with one ``before`` it or lies on it, to be seen.
    """
    color, band = run_color(members[0]), None
    if len(each) == 1:
        x, y = thin_curve(*each[0])
    else:
        steps = each[0][0]
        for others, _ in each[1:]:
            steps = np.intersect1d(steps, others)
        rows = np.array([values[np.searchsorted(own, steps)] for own, values in each])
        stride = max(1, -(-len(steps) // MAX_POINTS))
        x, y = steps[::stride], rows.mean(axis=0)[::stride]
        band = (rows.min(axis=0)[::stride], rows.max(axis=0)[::stride])
    dashed = any(curve.color == color or np.array_equal(y, curve.y, equal_nan=True) for curve in before)
    return figures.Curve(label, x, y, color, dashed, faint, members[0].name in minor, band)


def _mark(log: RunRecord, curve: figures.Curve) -> figures.Mark:
    step = collapse_step(log) or 0
    level = curve.y[np.isfinite(curve.y) & (curve.x <= step)]
    kind = (log.collapse or {}).get("class", "collapse")
    y = float(level[-1]) if len(level) else 0.0
    return figures.Mark(step, y, f"{log.name}: {kind}, step {step}", curve.color)


def validation_figure(
    runs: Sequence[RunRecord],
    minor: Collection[str] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
    text: str = "",
) -> figures.LineFigure | None:
    """Validation loss of the deployed model of all runs; arguments as for ``loss_figure``."""
    curves: list[figures.Curve] = []
    for label, members in _by_seeds(runs, labels).items():
        each = [(log.validation.steps, log.validation.values) for log in members if len(log.validation)]
        if each:
            curves.append(_curve(label, members, each, curves, minor))
    if not curves:
        return None
    title = f"Validation loss of the deployed model{text and f' on {text}'}: {_ends_words(curves)}"
    return figures.LineFigure(f"validation{text and f'-{text}'}", title, STEP, loss_axis(runs), tuple(curves))


def _rho_words(rows: Sequence[figures.Spread]) -> str:
    """The highest mean and the lowest, by name, with half of the interval over the seeds where known."""
    found = {row.label: paired_interval(row.values) for row in rows}
    finite = {name: each for name, each in found.items() if each is not None and math.isfinite(each.mean)}
    if not finite:
        return "none is finite"
    ranked = sorted(finite, key=lambda name: -finite[name].mean)
    said = [
        f"{name} {finite[name].mean:.2f}"
        + (f" ± {half:.2f}" if (half := finite[name].half_width) is not None else "")
        for name in dict.fromkeys((ranked[0], ranked[-1]))
    ]
    return " is highest, ".join(said) + (" lowest" if len(said) > 1 else "")


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
        f"Recovered fraction at step {latest}: {_rho_words(rows)}",
        "rho: 0 = linear layers frozen, 1 = float32",
        tuple(rows),
        ((0.0, "frozen"), (FAILED_BELOW, "failed below"), (TRAINED_FROM, "trained from"), (1.0, "fp32")),
    )
