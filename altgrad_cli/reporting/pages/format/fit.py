"""What a format would do to the tensors of a file, matrix by matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from altgrad_cli.checkpoints.foreign import ForeignTensors, open_file
from altgrad_cli.checkpoints.named_tensors import (
    NamedTensor,
    distinct_names,
    exact_values,
    network_of,
    walk_tensors,
)
from altgrad_cli.errors import CheckpointError
from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.scale import stored_scale
from altgrad_cli.metrics.gradient import gradient_sqnr
from altgrad_cli.metrics.rounding import code_use
from altgrad_cli.metrics.stall import first_step_stall_rate, predicted_stall_rate
from altgrad_cli.reporting.pages.format.facts import StallQuestion
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.statistics import STATS


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFit:
    """One matrix rounded at ``scale``; shares of its values, None where there is nothing to take a share of.

    ``scale`` is None where blocks have each their own.
    ``overflow`` and ``underflow`` as the run metrics of these names; ``codes_used`` over the finite codes;
    the stalls as predicted for the rounded weights; ``sqnr_db`` inf where nothing was lost.
    A float64 matrix beyond float32 has no carrier: all but its counts is None.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    nonfinite: int
    amax: float
    scale: float | None = None
    overflow: float | None = None
    underflow: float | None = None
    sqnr_db: float | None = None
    codes_used: float | None = None
    predicted_stall: float | None = None
    predicted_stall_first_step: float | None = None


def fit_file(path: Path, format: FP8Format, question: StallQuestion) -> tuple[list[TensorFit], int]:
    """Every float matrix (2 dimensions or more) of the file, and how many other tensors it holds.

    Without a scale in ``question`` each matrix gets the one that training would store it with, or the scales
    that the name of a format with blocks asks for. The file may be an altgrad checkpoint, a torch state dict
    (also one inside a training checkpoint) or .safetensors.

    Raises:
        CheckpointError: the file cannot be read or trusted, or holds no float matrix.
    """
    opened = open_file(path)
    tensors = opened.tensors if isinstance(opened, ForeignTensors) else walk_tensors(opened)
    network = network_of(tensors)
    fits = [
        fit_tensor(name, entry.tensor, format, question)
        for name, entry in zip(distinct_names(network), network, strict=True)
        if entry.tensor is not None and _is_float_matrix(entry)
    ]
    if not fits:
        raise CheckpointError(
            f"nothing to judge: the file holds no float matrix to round, {len(tensors)} other tensors",
            where=str(path),
            allowed="float tensors of 2 dimensions or more",
        )
    return fits, len(tensors) - len(fits)


def _is_float_matrix(entry: NamedTensor) -> bool:
    return (
        len(entry.shape) >= 2
        and entry.tensor is not None
        and not entry.tensor.is_complex()
        and entry.why_not_judged() is None
    )


@torch.no_grad()
def fit_tensor(name: str, tensor: Tensor, format: FP8Format, question: StallQuestion) -> TensorFit:
    """``tensor`` (float, any shape) rounded once, nearest and saturating, and what that did."""
    values = exact_values(tensor)
    assert values is not None
    finite = torch.isfinite(values)
    amax = float(torch.where(finite, values.abs(), 0.0).max())
    counted = TensorFit(
        name=name,
        shape=tuple(tensor.shape),
        values=tensor.numel(),
        nonfinite=int((~finite).sum()),
        amax=amax,
    )
    if amax > torch.finfo(torch.float32).max:
        return counted
    x = values.float()
    nonzero = int((values[finite] != 0).sum())
    vanished = nonzero - int((x[finite] != 0).sum())  # float32 itself rounds these to 0
    s: float | Tensor = question.scale or stored_scale(format, amax)
    if question.scale is None and format.block.name:
        grid = operand_grid(format, "amax")
        s = grid.spread(grid.scales(x), x.shape).expand(x.shape)
    counts = torch.zeros(len(STATS), dtype=torch.float64)
    rounded = round_to_grid(x, format, s, stats=counts)
    row = dict(zip(STATS, counts.tolist(), strict=True))
    kept, rate = rounded[finite], question.learning_rate
    kept_at = s[finite] if isinstance(s, Tensor) else s
    long_run = first_step = None
    if kept.numel() and rate > 0:
        long_run = float(predicted_stall_rate(kept, format, kept_at, rate, question.beta1))
        first_step = float(first_step_stall_rate(kept, format, kept_at, rate))
    return replace(
        counted,
        scale=None if isinstance(s, Tensor) else s,
        overflow=row["overflow"] / row["count"],
        underflow=(row["underflow"] + vanished) / (row["nonzero"] + vanished) if nonzero else None,
        sqnr_db=_sqnr_db(values[finite], kept),
        codes_used=code_use(x, format, s)["codes_used"],
        predicted_stall=long_run,
        predicted_stall_first_step=first_step,
    )


def _sqnr_db(x: Tensor, rounded: Tensor) -> float | None:
    """That of ``x`` in dB; None without a signal, inf without noise."""
    amax = float(x.abs().max()) if x.numel() else 0.0
    signal, noise = (  # divided, so that no square underflows
        float((values.double() / (amax or 1.0)).square().sum())
        for values in (x, x.double() - rounded.double())
    )
    return gradient_sqnr({"reference_square": signal, "error_square": noise})
