"""Norms, sparsity and non-finite values of the weight gradients, per layer and pooled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.spec import MetricSpec, Row, ratio
from altgrad_cli.metrics.thresholds import DEAD_GRADIENT

GRADIENT_COLUMNS = ("count", "tiny", "square", "linf", "nonfinite")
GRADIENT_MAXIMA = ("linf",)
"""Columns that are pooled by their maximum."""


@torch.no_grad()
def measure_gradients(layout: FlatLayout, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Raw numbers of the gradient, per layer; no wait for a device.

    Args:
        layout: the layers' places in the flat tensor.
        gradient: 1-D, contiguous.

    Returns:
        A float64 tensor (layers, len(GRADIENT_COLUMNS)), and a tensor (rows,) of max |g| for each output
        row of all layers, one after the other, for ``DeadNeurons``. NaN passes into sums and maxima.
    """
    sums = layout.block_sums(1, gradient)
    block_maxima = torch.empty_like(sums[0])
    buffer = torch.empty(layout.largest_group, dtype=gradient.dtype, device=gradient.device)
    squares: list[Tensor] = []
    for group in layout.groups:
        g = gradient[group.values]
        magnitude = torch.abs(g, out=buffer[: g.numel()])
        torch.amax(magnitude.view(-1, layout.block), dim=1, out=block_maxima[group.blocks])
        layout.sum_blocks(magnitude.lt_(DEAD_GRADIENT), sums[0, group.blocks])
        squares += layout.inner(g, g, group)
    row_maxima = layout.row_maxima(block_maxima)
    linf = layout.layer_maxima(row_maxima)
    tiny = layout.layer_sums(layout.row_sums(sums))
    nonfinite = _count_nonfinite(layout, gradient, linf)
    columns = (layout.counts, tiny[:, 0], torch.stack(squares).double(), linf.double(), nonfinite)
    return torch.stack(columns, dim=1), row_maxima


def _count_nonfinite(layout: FlatLayout, gradient: Tensor, linf: Tensor) -> Tensor:
    """Number of inf and NaN values per layer, float64."""
    # On a CPU a look at the maxima costs nothing and saves the pass; a device would have to be waited for.
    if gradient.device.type == "cpu" and bool(torch.isfinite(linf).all()):
        return torch.zeros_like(layout.counts)
    return torch.stack([(~torch.isfinite(layer)).sum() for layer in layout.views(gradient)]).double()


def gradient_norm(row: Row) -> float:
    """L2 norm."""
    return math.sqrt(row["square"])


def gradient_linf(row: Row) -> float:
    """Largest |g|."""
    return row["linf"]


def gradient_sparsity(row: Row) -> float | None:
    """Share of |g| < 1e-8. A NaN is not below."""
    return ratio(row["tiny"], row["count"])


def nonfinite_gradients(row: Row) -> float:
    """Number of inf and NaN values."""
    return row["nonfinite"]


GRADIENT_METRICS = (
    MetricSpec(
        "gradient_norm",
        "loss per weight unit",
        "L2 norm of the weight gradient",
        formula=gradient_norm,
        bad="high",
    ),
    MetricSpec(
        "gradient_linf",
        "loss per weight unit",
        "largest absolute value of the weight gradient",
        formula=gradient_linf,
        heading="largest gradient",
        bad="high",
    ),
    MetricSpec(
        "gradient_sparsity",
        "fraction",
        "share of weight gradients with |g| < 1e-8",
        formula=gradient_sparsity,
        heading="sparsity",
        bad="high",
    ),
    MetricSpec(
        "nonfinite_gradients",
        "values",
        "number of inf and NaN values in the weight gradient",
        formula=nonfinite_gradients,
        bad="high",
    ),
)
