"""Cost against model size and against the number of layers: is it a straight line?

Every width, every depth and every contestant takes one step in turn, in one round-robin; a line is fitted to
the medians, with weights that make relative errors count, and its largest relative residual is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from altgrad_cli.subjects.corpus.tokens import load_corpus
from benchmarks.networks import ENGINE, MONITORED, PLAIN, STANDARD, Size, configure, engine_step, plain_step
from benchmarks.section import Claim, Options, Section, table
from benchmarks.steps import start
from benchmarks.timing import Measured, interleave

PLOT = Path(__file__).parent / "cost-curve.png"
WIDTHS, DEPTHS = (64, 128, 192, 256, 384), (1, 2, 4, 6, 8, 12)
QUICK_WIDTHS, QUICK_DEPTHS = (16, 32, 48), (1, 2, 3)
DEFAULT_WIDTH, DEFAULT_DEPTH, QUICK_WIDTH = 128, 4, 32
HEAD_SIZE = 32
CONTESTANTS = (PLAIN, STANDARD, MONITORED)
RESIDUAL = 0.15
"""A cost whose every point lies this near to a line is called linear."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model: channels, layers, and the parameters that come of them."""

    width: int
    depth: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Line:
    """seconds = fixed + slope * amount, and the largest relative distance of a point from it."""

    fixed: float
    slope: float
    residual: float


def fit(amounts: Sequence[float], seconds: Sequence[float]) -> Line:
    """The least-squares line where relative errors count; two distinct amounts at least."""
    x, y = np.asarray(amounts, float), np.asarray(seconds, float)
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    return Line(float(fixed), float(slope), float(np.abs((fixed + slope * x) / y - 1).max()))


def size_of(width: int, depth: int) -> Size:
    """Overrides of the base config; heads of one size, so that attention grows with the width."""
    heads = max(1, width // HEAD_SIZE)
    return (f"model.n_embd={width}", f"model.n_layer={depth}", f"model.n_head={heads}")


def point(width: int, depth: int, threads: int) -> Point:
    """The model of ``width`` and ``depth``, with its parameters: 12 width^2 and two gains a layer."""
    config = configure(size_of(width, depth), threads)
    vocabulary = load_corpus(config.data, config.model.block_size).vocab_size
    matrices = 12 * width * width * depth + width * (vocabulary + config.model.block_size)
    return Point(width, depth, matrices + width * (2 * depth + 1))


def measure(
    points: Sequence[Point], rounds: int, threads: int
) -> tuple[dict[tuple[Point, str], Measured], dict[str, str]]:
    """Steps of every contestant at every point, and what failed."""
    names = {f"{name} at {p.width} x {p.depth}": (p, name) for p in points for name in CONTESTANTS}
    build = {}
    for label, (p, name) in names.items():
        size = size_of(p.width, p.depth)
        if name == PLAIN:
            build[label] = partial(plain_step, configure(size, threads))
        else:
            build[label] = partial(engine_step, configure(size, threads, *ENGINE[name]))
    steps, _, failed = start(build)
    return {names[label]: times for label, times in interleave(steps, rounds=rounds).items()}, failed


def section(options: Options) -> Section:
    """Both curves, as tables, as a plot and as lines."""
    widths, depths = (QUICK_WIDTHS, QUICK_DEPTHS) if options.quick else (WIDTHS, DEPTHS)
    by_width = [point(width, DEFAULT_DEPTH, options.threads) for width in widths]
    across = QUICK_WIDTH if options.quick else DEFAULT_WIDTH
    by_depth = [point(across, depth, options.threads) for depth in depths]
    points = list(dict.fromkeys((*by_width, *by_depth)))
    measured, failed = measure(points, 3 if options.quick else 25, options.threads)
    curves = (
        (f"million parameters, {DEFAULT_DEPTH} layers", by_width, [p.parameters / 1e6 for p in by_width]),
        (f"layers, {across} channels", by_depth, [float(p.depth) for p in by_depth]),
    )
    lines = [
        "## Cost against size and layers",
        "",
        "Batch 12 x 64, E5M2; ms a step, in brackets times plain.",
        "",
    ]
    claims = []
    for title, along, amounts in curves:
        rows = []
        for p in along:
            cells = [
                f"{1e3 * measured[p, name].median:.1f} ({measured[p, name].ratio(measured[p, PLAIN])[1]:.2f})"
                for name in CONTESTANTS
            ]
            rows.append((f"{p.parameters / 1e6:.2f} M", str(p.width), str(p.depth), *cells))
        lines += [*table(("parameters", "channels", "layers", *CONTESTANTS), rows), ""]
        for name in CONTESTANTS:
            line = fit(amounts, [measured[p, name].median for p in along])
            lines.append(
                f"- {name}: {1e3 * line.fixed:.1f} ms + {1e3 * line.slope:.2f} ms for each of {title}; "
                f"no point further than {line.residual:.0%} from it"
            )
            claims.append(
                Claim(f"{name}: distance from a line over {title}", 100 * line.residual, 100 * RESIDUAL, "%")
            )
        lines.append("")
    if not options.quick:
        draw(
            [
                (title, amounts, [[measured[p, n].median for n in CONTESTANTS] for p in along])
                for title, along, amounts in curves
            ]
        )
        lines += [f"![step seconds against parameters and layers]({PLOT.name})", ""]
    return Section(lines=tuple(lines), claims=tuple(claims), left_out=failed)


def draw(curves: Sequence[tuple[str, Sequence[float], Sequence[Sequence[float]]]], path: Path = PLOT) -> None:
    """Measured medians as dots and their lines, a panel a curve, one colour a contestant."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    for axes, (title, amounts, seconds) in zip(figure.subplots(1, len(curves)), curves, strict=True):
        for number, name in enumerate(CONTESTANTS):
            own = [row[number] for row in seconds]
            line = fit(amounts, own)
            axes.plot(amounts, [1e3 * s for s in own], "o", color=f"C{number}", label=name)
            ends = (min(amounts), max(amounts))
            axes.plot(ends, [1e3 * (line.fixed + line.slope * end) for end in ends], color=f"C{number}", lw=1)
        axes.set(xlabel=title, ylabel="ms a step", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path)
