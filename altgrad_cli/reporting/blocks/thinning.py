"""Long runs made short enough to draw, without hiding what matters: peaks, zeros and what is not finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from altgrad_cli.reporting.blocks.figures import Steps, Values

MAX_POINTS = 2000
"""Points of a curve; more are not told apart on a screen."""
MAX_COLUMNS = 240
"""Columns of a heat map."""


def thin_curve(x: Steps, y: Values, limit: int = MAX_POINTS) -> tuple[Steps, Values]:
    """About ``limit`` points of the curve at most: of each stretch its lowest and highest, and all NaN.

    A curve within the limit is returned as it is.
    """
    if len(x) <= limit:
        return x, y
    keep = set(np.flatnonzero(~np.isfinite(y))[:limit].tolist())
    for rows in np.array_split(np.arange(len(x)), limit // 2):
        finite = rows[np.isfinite(y[rows])]
        if len(finite):
            keep |= {int(finite[np.argmin(y[finite])]), int(finite[np.argmax(y[finite])])}
    rows = np.array(sorted(keep | {0, len(x) - 1}))
    return x[rows], y[rows]


def bin_columns(
    steps: Steps, values: Values, measured: NDArray[np.bool_], limit: int = MAX_COLUMNS
) -> tuple[Steps, Values, NDArray[np.bool_]]:
    """At most ``limit`` columns of steps: the middle step, the means, and whether anything was measured.

    ``values`` and ``measured`` are (steps, layers); the results (columns,), (layers, columns) twice. One NaN
    makes its whole bin NaN.
    """
    count = min(limit, len(steps))
    edges = np.linspace(0, len(steps), count + 1).astype(int)[:-1]
    totals = np.add.reduceat(np.where(measured, values, 0.0), edges, axis=0)
    counts = np.add.reduceat(measured.astype(np.int64), edges, axis=0)
    means = totals / np.maximum(counts, 1)
    last = np.append(edges[1:], len(steps)) - 1
    middles = (steps[edges] + steps[last]) // 2
    return middles, means.T, (counts > 0).T


def smoothed(values: Values, half_width: int = 5) -> Values:
    """Mean over ``half_width`` values on each side, fewer at the ends, but as many on both: it never lags.

    What is not finite stays where it stands, and is left out of its neighbours' means.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    rows = np.arange(len(values))
    reach = np.minimum(half_width, np.minimum(rows, len(values) - 1 - rows))
    first, last = rows - reach, rows + reach + 1
    means = (sums[last] - sums[first]) / np.maximum(counts[last] - counts[first], 1)
    return np.where(finite, means, np.nan)


def nonfinite_points(x: Steps, y: Values) -> Values:
    """Where a curve is not finite: (n, 2) positions, each at the level of the last finite value."""
    bad = ~np.isfinite(y)
    if not bad.any():
        return np.empty((0, 2))
    finite = np.flatnonzero(~bad)
    if not len(finite):
        return np.column_stack([x, np.zeros(len(x))])
    rows = np.flatnonzero(bad)
    before = finite[np.maximum(np.searchsorted(finite, rows) - 1, 0)]
    return np.column_stack([x[rows], y[before]])
