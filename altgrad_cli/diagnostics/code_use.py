"""How much of a format's code space a tensor uses, from its histogram over the codes."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.diagnostics.spec import MetricSpec, Row, ratio
from altgrad_cli.formats import FP8Format

CODE_USE_COLUMNS = ("count", "codes", "used", "entropy", "zero", "top_binade", "nonfinite")


@lru_cache(maxsize=32)
def _code_classes(format: FP8Format, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Masks over codes plus the NaN bin, float64: finite, zero, top binade."""
    values = torch.tensor([*format.values(), math.nan], dtype=torch.float64, device=device)
    finite = torch.isfinite(values)
    binade = 2.0 ** (math.frexp(format.max_representable_value)[1] - 1)
    top = finite & (values.abs() >= binade)
    return finite.double(), (values == 0).double(), top.double()


@torch.no_grad()
def measure_code_use(histograms: Tensor, format: FP8Format) -> Tensor:
    """Raw numbers of histograms over one format's codes; nothing is read by the host.

    Args:
        histograms: counts (rows, format.code_count + 1), one column a code, the NaN bin last.
        format: the format of all rows.

    Returns:
        A float64 tensor (rows, len(CODE_USE_COLUMNS)): values counted, finite codes of the format, finite
        codes used, entropy in bits over the finite codes, values at zero, values in the top binade, and
        values in the NaN bin or on codes that are inf or NaN.
    """
    h = histograms.to(torch.float64)
    finite, zero, top = _code_classes(format, h.device)
    on_codes = h * finite
    total = on_codes.sum(dim=1)
    p = on_codes / total.unsqueeze(1).clamp(min=1)
    entropy = -torch.xlogy(p, p).sum(dim=1) / math.log(2)
    everything = h.sum(dim=1)
    columns = (
        everything,
        finite.sum().expand_as(total),
        (on_codes > 0).sum(dim=1).double(),
        entropy,
        (h * zero).sum(dim=1),
        (h * top).sum(dim=1),
        everything - total,
    )
    return torch.stack(columns, dim=1)


def codes_used(row: Row) -> float | None:
    """Share of the format's finite codes that occur; None for an empty histogram."""
    return ratio(row["used"], row["codes"]) if row["count"] else None


def code_entropy(row: Row) -> float | None:
    """Entropy of the codes over log2 of their number (1: evenly used); None without a finite value."""
    return ratio(row["entropy"], math.log2(row["codes"])) if row["count"] > row["nonfinite"] else None


def zero_share(row: Row) -> float | None:
    """Share of the values on the codes of 0 and -0."""
    return ratio(row["zero"], row["count"])


def top_binade_share(row: Row) -> float | None:
    """Share of the values in the binade of the maximum."""
    return ratio(row["top_binade"], row["count"])


def nan_share(row: Row) -> float | None:
    """Share of the values that are NaN or on a code that is not finite."""
    return ratio(row["nonfinite"], row["count"])


CODE_USE_METRICS = (
    MetricSpec(
        name="codes_used",
        unit="fraction",
        definition="share of the format's finite codes that occur in the tensor",
        scope="layer_role",
        cadence="step",
        formula=codes_used,
    ),
    MetricSpec(
        name="code_entropy",
        unit="fraction",
        definition="entropy of the code histogram over log2 of the number of finite codes",
        scope="layer_role",
        cadence="step",
        formula=code_entropy,
    ),
    MetricSpec(
        name="top_binade_share",
        unit="fraction",
        definition="share of the values in the binade of the format's maximum",
        scope="layer_role",
        cadence="step",
        formula=top_binade_share,
    ),
    MetricSpec(
        name="zero_share",
        unit="fraction",
        definition="share of the values on the codes of 0 and -0",
        scope="layer_role",
        cadence="step",
        formula=zero_share,
    ),
    MetricSpec(
        name="nan_share",
        unit="fraction",
        definition="share of the values in the NaN bin or on codes that are inf or NaN",
        scope="layer_role",
        cadence="step",
        formula=nan_share,
    ),
)
