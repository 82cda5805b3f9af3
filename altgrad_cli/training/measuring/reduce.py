"""Where counts that were taken apart become one: of workers, of layers and roles, of layers' values.

A count is a row of numbers by column. Rows are put together by adding them up, or by their largest value in
the few columns that are maxima; whatever asks for a total over anything asks here. Three ways:

    whole_batch   tables that several ranks counted, each of its own share of a batch, on the device
    pool          the rows of a table, on the host: what the whole run's metrics are evaluated from
    pool_values   values that are no counts, such as medians, in the way their metric names
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES, Role
from altgrad_cli.metrics.rounding import ROUNDING_MAXIMA
from altgrad_cli.metrics.spec import Pooling
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.surgery.linear import WEIGHTS
from altgrad_cli.training.parallel.ranks import Ranks

Table = list[list[float]]
"""A row a place, a column a count."""

_MAXIMA = [STATS.index(name) for name in ROUNDING_MAXIMA]
_AMAX, _COUNT, _OVERFLOW, _NONFINITE = map(STATS.index, ("amax", "count", "overflow", "nonfinite"))


def whole_batch(stats: Sequence[Tensor]) -> Tensor:
    """The counts of a pass over a batch, from those that each rank took of its rows of it.

    A sum, and a maximum of one column. Weights are the same for every rank, so their rows are the first
    one's. NaN (not rounded, not counted) stays NaN.

    Args:
        stats: of each rank (layers, 3, len(STATS)), float64, counted at the same scales.
    """
    first, *others = stats
    if not others:
        return first
    total = torch.stack([first, *others]).sum(0)
    total[..., _MAXIMA] = torch.stack([table[..., _MAXIMA] for table in stats]).amax(0)
    total[:, WEIGHTS] = first[:, WEIGHTS]
    return total


def whole_loss_and_counts(ranks: Ranks, loss: Tensor, stats: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Loss and counts of a pass over a batch, the same on every rank, from this rank's parts of both.

    Args:
        loss: 0-d, this rank's part of the mean.
        stats: this rank's counts; None where nothing was counted.
    """
    if ranks.alone:
        return loss, stats
    mine = loss.double().view(1) if stats is None else torch.cat((loss.double().view(1), stats.flatten()))
    tables = ranks.gathered(mine)
    total = sum(table[0].to(loss.dtype) for table in tables)
    assert isinstance(total, Tensor)
    return total, None if stats is None else whole_batch([table[1:].view(stats.shape) for table in tables])


def read_tables(tables: Sequence[Tensor]) -> list[Table]:
    """Several 2-D tensors on the host, with a single wait for the device."""
    numbers: list[float] = torch.cat([table.reshape(-1).double() for table in tables]).tolist()
    read, position = [], 0
    for table in tables:
        rows, columns = table.shape
        read.append([numbers[position + r * columns : position + (r + 1) * columns] for r in range(rows)])
        position += rows * columns
    return read


class OperandCounts(NamedTuple):
    """The counts of a pass over a batch, on the host."""

    by_role: dict[Role, Table]
    """A row a layer; NaN where nothing was rounded."""

    @classmethod
    def of_rows(cls, rows: Table) -> OperandCounts:
        """Of a pass' rows, the roles of each layer one after the other."""
        return cls({role: rows[number :: len(OPERAND_ROLES)] for number, role in enumerate(OPERAND_ROLES)})

    @property
    def amax(self) -> list[list[float]]:
        """Per layer and operand role; NaN where nothing was rounded."""
        return [[row[_AMAX] for row in layer] for layer in zip(*self.by_role.values(), strict=True)]

    @property
    def nonfinite(self) -> dict[tuple[int, Role], int]:
        """Non-finite values that entered a rounding, by (layer, role); only places that had any."""
        return {
            (layer, role): int(row[_NONFINITE])
            for role, rows in self.by_role.items()
            for layer, row in enumerate(rows)
            if row[_NONFINITE] > 0
        }

    @property
    def overflow_rate(self) -> float:
        """The largest overflow rate of any layer and role."""
        rows = [row for rows in self.by_role.values() for row in rows if row[_COUNT] > 0]
        return max((row[_OVERFLOW] / row[_COUNT] for row in rows), default=0.0)


def pool(
    columns: Sequence[str], rows: Iterable[Sequence[float]], maxima: Sequence[str] = ()
) -> dict[str, float]:
    """Add the rows column by column; the columns named in ``maxima`` take the largest value instead.

    A row whose column ``count`` is NaN was not measured and is left out. Any other NaN makes its column NaN:
    it is never skipped. No rows give zeros, so that every rate is None.
    """
    count = columns.index("count")
    measured = [row for row in rows if not math.isnan(row[count])]
    pooled = {}
    for index, name in enumerate(columns):
        values = [row[index] for row in measured]
        if name not in maxima:
            pooled[name] = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
        else:
            pooled[name] = _largest(values) if values else 0.0
    return pooled


def pool_values(pooling: Pooling, values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """The run's value from the layers' values; None where no layer has one. NaN is never skipped.

    Args:
        pooling: ``sum``, ``max``, ``layers`` (mean, every layer alike) or ``weights`` (mean, by size).
        values: one a layer; None where not measured.
        weights: number of weights of each layer; layers beyond these have no value.
    """
    measured = [(value, size) for value, size in zip(values, weights, strict=False) if value is not None]
    known = [value for value, _ in measured]
    if not known:
        return None
    if pooling == "max":
        return _largest(known)
    if pooling == "sum":
        return sum(known)
    if pooling == "layers":
        return sum(known) / len(known)
    if pooling == "weights":
        return sum(value * size for value, size in measured) / sum(size for _, size in measured)
    raise ValueError("a metric that is pooled by its counts has no pool of values")


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)
