"""Norms, sparsity and non-finite values of the weight gradients, per layer and pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from altgrad_cli.diagnostics.counting import as_rows, count, inner, scratch_like, table
from altgrad_cli.diagnostics.persistence import DEAD_GRADIENT
from altgrad_cli.diagnostics.spec import MetricSpec, Row, ratio

GRADIENT_COLUMNS = ("count", "tiny", "square", "linf")
GRADIENT_MAXIMA = ("linf",)
"""Columns that are pooled by their maximum."""


@torch.no_grad()
def measure_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Raw numbers of the gradients, per layer; nothing is read by the host.

    Returns:
        A float64 tensor (layers, len(GRADIENT_COLUMNS)), and a float tensor (total rows,) of max |g| per
        output row of all layers, one after the other, for ``DeadNeurons``. NaN passes into sums and maxima.
    """
    tensors = list(gradients)
    buffer = scratch_like(tensors)
    rows: list[list[Tensor]] = []
    maxima: list[Tensor] = []
    for g in tensors:
        magnitude = buffer[: g.numel()].view(g.shape)
        torch.abs(g, out=magnitude)
        maxima.append(as_rows(magnitude).amax(dim=1))
        linf = maxima[-1].amax()
        tiny = count(magnitude.lt_(DEAD_GRADIENT))
        size = torch.full((), g.numel(), dtype=g.dtype, device=g.device)
        rows.append([size, tiny, inner(g, g), linf])
    return table(rows), torch.cat(maxima)


@torch.no_grad()
def count_nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    """Number of inf and NaN values per tensor, float64 (tensors,).

    A pass of its own: worth it only where a maximum that was read back is not finite.
    """
    return torch.stack([(~torch.isfinite(t)).sum() for t in tensors]).double()


def gradient_norm(row: Row) -> float:
    """L2 norm."""
    return math.sqrt(row["square"])


def gradient_linf(row: Row) -> float:
    """Largest |g|."""
    return row["linf"]


def gradient_sparsity(row: Row) -> float | None:
    """Share of |g| < 1e-8. A NaN is not below."""
    return ratio(row["tiny"], row["count"])


def nonfinite_gradients(row: Row) -> float | None:
    """Number of non-finite values: 0 where the maximum is finite, else what ``count_nonfinite`` found."""
    return 0.0 if math.isfinite(row["linf"]) else row.get("nonfinite")


GRADIENT_METRICS = (
    MetricSpec(
        name="gradient_norm",
        unit="loss per weight unit",
        definition="L2 norm of the weight gradient",
        scope="layer",
        cadence="step",
        formula=gradient_norm,
    ),
    MetricSpec(
        name="gradient_linf",
        unit="loss per weight unit",
        definition="largest absolute value of the weight gradient",
        scope="layer",
        cadence="step",
        formula=gradient_linf,
    ),
    MetricSpec(
        name="gradient_sparsity",
        unit="fraction",
        definition="share of weight gradients with |g| < 1e-8",
        scope="layer",
        cadence="step",
        formula=gradient_sparsity,
    ),
    MetricSpec(
        name="nonfinite_gradients",
        unit="values",
        definition="number of inf and NaN values in the weight gradient",
        scope="layer",
        cadence="step",
        formula=nonfinite_gradients,
    ),
)
