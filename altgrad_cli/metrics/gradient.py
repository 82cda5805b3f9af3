"""The weight gradients by themselves, and the rounded ones against their float32 shadow.

The shadow is the gradient of the same batch and the same stored weights without any rounding. A cosine alone
never convicts a format: read it with the signal-to-noise ratio, the norm and the loss.
"""

from __future__ import annotations

import math
from operator import itemgetter

import torch
from torch import Tensor

from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.spec import MetricSpec, Row, ratio, share
from altgrad_cli.metrics.thresholds import DEAD_GRADIENT
from altgrad_cli.notation import format_value

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


GRADIENT_METRICS = (
    MetricSpec(
        "gradient_norm",
        "L2 norm of the weight gradient",
        unit="loss per weight unit",
        formula=lambda row: math.sqrt(row["square"]),
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "gradient_linf",
        "largest absolute value of the weight gradient",
        unit="loss per weight unit",
        formula=itemgetter("linf"),
        heading="largest gradient",
        bad="high",
    ),
    MetricSpec(
        "gradient_sparsity",
        f"share of weight gradients with |g| < {format_value(DEAD_GRADIENT)}",
        formula=share("tiny", "count"),
        heading="sparsity",
        bad="high",
        by_layer=True,
    ),
    MetricSpec(
        "nonfinite_gradients",
        "number of inf and NaN values in the weight gradient",
        unit="values",
        formula=itemgetter("nonfinite"),
        bad="high",
    ),
)

SHADOW_COLUMNS = (
    "count",
    "dot",
    "square",
    "reference_square",
    "error_square",
    "reference_nonzero",
    "sign_agreeing",
)


@torch.no_grad()
def measure_shadow(layout: FlatLayout, gradient: Tensor, reference: Tensor) -> Tensor:
    """Raw sums comparing each layer's gradient with its float32 shadow; nothing is read by the host.

    Args:
        layout: the layers' places in the flat tensors.
        gradient: the gradient with rounding, 1-D, contiguous.
        reference: the same without any rounding; same length and type.

    Returns:
        A float64 tensor (layers, len(SHADOW_COLUMNS)). NaN and inf pass into the sums.
    """
    sums = layout.block_sums(2, gradient)
    buffers = torch.empty(2, layout.largest_group, dtype=gradient.dtype, device=gradient.device)
    inner: list[list[Tensor]] = [[], [], [], []]
    for group in layout.groups:
        g, r = gradient[group.values], reference[group.values]
        a, b = (buffer[: g.numel()] for buffer in buffers)
        torch.sub(g, r, out=a)
        for column, (x, y) in zip(inner, ((g, r), (g, g), (r, r), (a, a)), strict=True):
            column += layout.inner(x, y, group)
        torch.sign(g, out=a)
        torch.sign(r, out=b)
        a.mul_(b).gt_(0)  # signs and not values are multiplied: a product of small gradients can underflow
        layout.sum_blocks(b.abs_(), sums[0, group.blocks])
        layout.sum_blocks(a, sums[1, group.blocks])
    counts = layout.layer_sums(layout.row_sums(sums))
    dots = torch.stack([value for column in inner for value in column]).view(4, -1).T.double()
    return torch.cat((layout.counts.unsqueeze(1), dots, counts), dim=1)


def gradient_cosine(row: Row) -> float | None:
    """<g, r> / (|g| |r|); None where either norm is 0."""
    cosine = ratio(row["dot"], math.sqrt(row["square"]) * math.sqrt(row["reference_square"]))
    if cosine is None or math.isnan(cosine):
        return cosine
    return min(1.0, max(-1.0, cosine))  # sums in float32 can overshoot by an ulp


def gradient_sqnr(row: Row) -> float | None:
    """10 log10(|r|^2 / |g - r|^2) in dB; inf for identical gradients, None where the reference is 0."""
    signal, noise = row["reference_square"], row["error_square"]
    if signal == 0:
        return None
    if noise == 0:
        return math.inf
    quotient = signal / noise
    if math.isnan(quotient):
        return math.nan
    return 10 * math.log10(quotient) if quotient > 0 else -math.inf


SHADOW_METRICS = (
    MetricSpec(
        "gradient_cosine",
        "cosine of the weight gradient and its float32 shadow; null where either is 0",
        unit="cosine",
        formula=gradient_cosine,
        heading="shadow cosine",
        bad="low",
        by_layer=True,
    ),
    MetricSpec(
        "gradient_sqnr",
        "10 log10(|g_ref|^2 / |g - g_ref|^2) against the float32 shadow; Infinity where equal",
        unit="dB",
        formula=gradient_sqnr,
        heading="SQNR",
        bad="low",
        by_layer=True,
    ),
    MetricSpec(
        "gradient_norm_ratio",
        "L2 norm of the weight gradient over that of its float32 shadow",
        unit="ratio",
        formula=lambda row: ratio(math.sqrt(row["square"]), math.sqrt(row["reference_square"])),
        heading="norm ratio",
        bad="low",
        by_layer=True,
    ),
    MetricSpec(
        "gradient_sign_agreement",
        "share of non-zero float32-shadow gradients whose sign the rounded gradient has",
        formula=share("sign_agreeing", "reference_nonzero"),
        heading="sign agreement",
        bad="low",
    ),
)
