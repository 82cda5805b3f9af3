"""What rounding did: rates from its counters, and how much of the code space is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from operator import itemgetter

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.spec import AlertRule, MetricSpec, Row, evaluate, ratio, share
from altgrad_cli.metrics.thresholds import OVERFLOW_FROM, UNDERFLOW_FROM
from altgrad_cli.rounding.codes import code_histogram
from altgrad_cli.rounding.constants import is_power_of_two
from altgrad_cli.rounding.scaling import checked_scale

ROUNDING_MAXIMA = ("amax",)
"""Columns of ``altgrad_cli.rounding.quantize.STATS`` that are pooled by their maximum."""
_by_role = partial(MetricSpec, scope="layer_role")

ROUNDING_METRICS = (
    _by_role(
        "overflow_rate",
        "share of values whose unsaturated rounding exceeds the maximum",
        formula=share("overflow", "count"),
        heading="overflow",
        bad="high",
        alert=AlertRule("overflow", OVERFLOW_FROM, 0.8 * OVERFLOW_FROM),
        by_layer=True,
    ),
    _by_role(
        "clipped_rate",
        "share of values with |x / s| above the maximum",
        formula=share("clipped", "count"),
        heading="clipped",
        bad="high",
    ),
    _by_role(
        "underflow_rate",
        "share of non-zero values that were rounded to 0",
        formula=share("underflow", "nonzero"),
        heading="underflow",
        bad="high",
        alert=AlertRule("underflow", UNDERFLOW_FROM, 0.8 * UNDERFLOW_FROM),
        by_layer=True,
    ),
    _by_role(
        "subnormal_fraction",
        "share of non-zero values whose rounding is a subnormal of the scaled format",
        formula=share("subnormal", "nonzero"),
        heading="subnormal",
        bad="high",
    ),
    _by_role(
        "nonfinite_inputs",
        "inf and NaN values given to the rounding",
        unit="values",
        formula=itemgetter("nonfinite"),
        heading="non-finite inputs",
        bad="high",
    ),
    _by_role(
        "mean_rounding_error",
        "signed mean of Q(x) - x over the finite values: the bias of the rounding",
        unit="tensor units",
        formula=lambda row: ratio(row["error_sum"], row["count"] - row["nonfinite"]),
        heading="rounding error, mean",
    ),
    _by_role(
        "amax",
        "largest finite magnitude before rounding; null where nothing was rounded",
        unit="tensor units",
        formula=lambda row: row["amax"] if row["count"] else None,
        heading="largest amax",
        bad="high",
    ),
)

CODE_USE_COLUMNS = ("count", "codes", "used", "entropy", "zero", "top_binade", "nonfinite")


@lru_cache(maxsize=32)
def _code_classes(format: FP8Format, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Masks over codes plus the NaN bin, float64: finite, zero, top binade."""
    values = torch.tensor([*format.values(), math.nan], dtype=torch.float64, device=device)
    finite = torch.isfinite(values)
    binade = 2.0 ** (math.frexp(format.max_representable_value)[1] - 1)
    top = finite & (values.abs() >= binade)
    return finite.double(), (values == 0).double(), top.double()


_FLOAT32_MANTISSA = 23
_FLOAT32_MIN_NORMAL = 2.0**-126


@lru_cache(maxsize=256)
def _code_keys(format: FP8Format, scale: float, device: torch.device) -> tuple[int, int, Tensor]:
    """(shift, bins, keys): float32 bits >> shift, plus half the bins, is different for each grid value s * v.

    ``keys`` holds that number for every code, and ``bins`` (always empty) for a code that is NaN.
    """
    # A fixed-point magnitude below 2^M has at most M - 1 bits after its leading one, a floating one M.
    kept = format.mantissa_bits - (1 if format.is_fixed_point and format.mantissa_bits else 0)
    shift = _FLOAT32_MANTISSA - kept
    bins = 1 << (32 - shift)
    values = torch.tensor(format.values(), dtype=torch.float64).mul(scale).float()
    keys = (values.view(torch.int32) >> shift).long() + bins // 2
    return shift, bins, torch.where(values.isnan(), bins, keys).to(device)


@torch.no_grad()
def grid_histograms(tensors: Sequence[Tensor], format: FP8Format, scales: Sequence[float | Tensor]) -> Tensor:
    """How many values of each tensor, all of which lie on its grid already, have each code.

    The same counts as ``code_histogram``, many times faster: nothing is rounded or divided, the bits of the
    float32 values tell the codes apart. A scale that is no power of two goes the long way.

    Args:
        tensors: float32 grid values (code times scale), contiguous; others than these are miscounted.
        format: the grid.
        scales: its scale, for each tensor; or that of each value, as what broadcasts with it.

    Returns:
        int64 (len(tensors), format.code_count + 1), the last column for NaN.
    """
    pairs = [(x, checked_scale(scale, x.shape)) for x, scale in zip(tensors, scales, strict=True)]
    numbers = [scale for x, scale in pairs if _tells_codes_apart(x, format, scale)]
    if len(numbers) < len(pairs):
        return torch.stack([code_histogram(x, format, scale) for x, scale in pairs])
    device, sizes = tensors[0].device, [x.numel() for x in tensors]
    codings = [_code_keys(format, float(scale), device) for scale in numbers]
    shift, bins, _ = codings[0]  # the format decides these
    width = bins + 1
    found = torch.empty(sum(sizes), dtype=torch.int32, device=device)
    for index, (x, part) in enumerate(zip(tensors, torch.split(found, sizes), strict=True)):
        torch.bitwise_right_shift(x.reshape(-1).view(torch.int32), shift, out=part)
        part.add_(index * width + bins // 2)
    if device.type == "cpu":
        counts = torch.bincount(found, minlength=len(sizes) * width)
    else:  # where bincount would wait for the device, to learn how many bins there are
        counts = torch.zeros(len(sizes) * width, dtype=torch.int64, device=device)
        counts.scatter_add_(0, found.long(), torch.ones_like(found, dtype=torch.int64))
    counts = counts.view(len(sizes), width)
    by_code = counts.gather(1, torch.stack([keys for _, _, keys in codings]))
    if not format.negative_zero:
        by_code[:, 0] += counts[:, 0]  # the key of -0, which has no code of its own here
    total = torch.tensor(sizes, device=device)
    return torch.cat((by_code, (total - by_code.sum(1)).unsqueeze(1)), dim=1)


def _tells_codes_apart(values: Tensor, format: FP8Format, scale: float | Tensor) -> bool:
    """Whether the bits of grid values at this scale do: they are the format's own bits, moved."""
    if isinstance(scale, Tensor):
        return False
    exact = is_power_of_two(scale) and format.smallest_positive * scale >= _FLOAT32_MIN_NORMAL
    return exact and values.dtype == torch.float32


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


@torch.no_grad()
def code_use(values: Tensor, format: FP8Format, scale: float | Tensor) -> dict[str, float | None]:
    """``CODE_USE_METRICS`` by name of ``values`` (any shape) rounded to the format at ``scale``."""
    counted = measure_code_use(code_histogram(values, format, scale).unsqueeze(0), format)[0].tolist()
    return evaluate(CODE_USE_METRICS, dict(zip(CODE_USE_COLUMNS, counted, strict=True)))


def _entropy_of_evenly_used(row: Row) -> float | None:
    return ratio(row["entropy"], math.log2(row["codes"])) if row["count"] > row["nonfinite"] else None


_by_layer = partial(MetricSpec, scope="layer_role", pooling="layers")

CODE_USE_METRICS = (
    _by_layer(
        "codes_used",
        "share of the format's finite codes that occur in the tensor; null for an empty one",
        formula=lambda row: ratio(row["used"], row["codes"]) if row["count"] else None,
        bad="low",
        by_layer=True,
    ),
    _by_layer(
        "code_entropy",
        "entropy of the code histogram over log2 of the number of finite codes",
        formula=_entropy_of_evenly_used,
        heading="entropy",
        bad="low",
        by_layer=True,
    ),
    _by_layer(
        "top_binade_share",
        "share of the values in the binade of the format's maximum",
        formula=share("top_binade", "count"),
        bad="high",
    ),
    _by_layer(
        "zero_share",
        "share of the values on the codes of 0 and -0",
        formula=share("zero", "count"),
        heading="on zero",
        bad="high",
        by_layer=True,
    ),
    _by_layer(
        "nan_share",
        "share of the values in the NaN bin or on codes that are inf or NaN",
        formula=share("nonfinite", "count"),
        bad="high",
    ),
)
