"""Rates from the counters that are taken where rounding happens (``altgrad_cli.rounding.quantize.STATS``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from altgrad_cli.metrics.spec import AlertRule, MetricSpec, Row, pool, ratio
from altgrad_cli.metrics.thresholds import OVERFLOW_FROM, UNDERFLOW_FROM
from altgrad_cli.rounding.quantize import STATS

_MAXIMA = ("amax",)


def rounding_row(values: Sequence[float]) -> dict[str, float]:
    """One row of counters that was read back, by name."""
    return dict(zip(STATS, values, strict=True))


def pool_rounding(rows: Iterable[Sequence[float]]) -> dict[str, float]:
    """Counters of several tensors as one; rows of NaN (nothing was rounded there) are left out."""
    count = STATS.index("count")
    measured = [row for row in rows if row[count] == row[count]]
    return pool(STATS, measured, _MAXIMA)


def overflow_rate(row: Row) -> float | None:
    """Share of values whose unsaturated rounding exceeds the maximum."""
    return ratio(row["overflow"], row["count"])


def clipped_rate(row: Row) -> float | None:
    """Share of values with |x / s| > max."""
    return ratio(row["clipped"], row["count"])


def underflow_rate(row: Row) -> float | None:
    """Share of the non-zero values that were rounded to 0."""
    return ratio(row["underflow"], row["nonzero"])


def subnormal_fraction(row: Row) -> float | None:
    """Share of the non-zero values whose rounding is a subnormal, not 0."""
    return ratio(row["subnormal"], row["nonzero"])


def nonfinite_inputs(row: Row) -> float:
    """Number of inf and NaN values that were given to the rounding."""
    return row["nonfinite"]


def mean_rounding_error(row: Row) -> float | None:
    """Mean of Q(x) - x over the finite values: the bias of the rounding."""
    return ratio(row["error_sum"], row["count"] - row["nonfinite"])


def amax(row: Row) -> float | None:
    """Largest finite |x|; None where nothing was rounded."""
    return row["amax"] if row["count"] else None


_rate = partial(MetricSpec, scope="layer_role")

ROUNDING_METRICS = (
    _rate(
        "overflow_rate",
        "fraction",
        "share of values whose unsaturated rounding exceeds the maximum",
        formula=overflow_rate,
        heading="overflow",
        bad="high",
        alert=AlertRule("overflow", OVERFLOW_FROM, 0.8 * OVERFLOW_FROM),
    ),
    _rate(
        "clipped_rate",
        "fraction",
        "share of values with |x / s| above the maximum",
        formula=clipped_rate,
        heading="clipped",
        bad="high",
    ),
    _rate(
        "underflow_rate",
        "fraction",
        "share of non-zero values that were rounded to 0",
        formula=underflow_rate,
        heading="underflow",
        bad="high",
        alert=AlertRule("underflow", UNDERFLOW_FROM, 0.8 * UNDERFLOW_FROM),
    ),
    _rate(
        "subnormal_fraction",
        "fraction",
        "share of non-zero values whose rounding is a subnormal of the scaled format",
        formula=subnormal_fraction,
        heading="subnormal",
        bad="high",
    ),
    _rate(
        "nonfinite_inputs",
        "values",
        "inf and NaN values given to the rounding",
        formula=nonfinite_inputs,
        heading="non-finite inputs",
        bad="high",
    ),
    _rate(
        "mean_rounding_error",
        "tensor units",
        "signed mean of Q(x) - x over the finite values: the bias of the rounding",
        formula=mean_rounding_error,
        heading="rounding error, mean",
    ),
    _rate(
        "amax",
        "tensor units",
        "largest finite magnitude before rounding",
        formula=amax,
        heading="largest amax",
        bad="high",
    ),
)
