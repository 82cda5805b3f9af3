"""What a format would do to the tensors of a file, matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.errors import CheckpointError
from altgrad_cli.formats import FP8Format
from altgrad_cli.metrics.code_use import CODE_USE_COLUMNS, codes_used, measure_code_use
from altgrad_cli.metrics.prediction import first_step_stall_rate, predicted_stall_rate
from altgrad_cli.rounding.codes import code_histogram
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.scaling import stored_weight_scale
from altgrad_cli.rounding.statistics import STATS

_NETWORKS = ("weights", "model", "state_dict", "model_state_dict", "module")
"""Keys under which checkpoints keep the network, altgrad's own first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFit:
    """One matrix rounded at ``scale``; shares of its values, None where there is nothing to take a share of.

    ``overflow`` and ``underflow`` as the run metrics of these names; ``codes_used`` over the finite codes;
    the stalls as predicted for the rounded weights; ``sqnr_db`` inf where nothing was lost.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    nonfinite: int
    amax: float
    scale: float
    overflow: float | None
    underflow: float | None
    sqnr_db: float | None
    codes_used: float | None
    predicted_stall: float | None
    predicted_stall_first_step: float | None


def fit_file(
    path: Path, format: FP8Format, *, learning_rate: float, beta1: float, scale: float | None
) -> tuple[list[TensorFit], int]:
    """Every float matrix (2 dimensions or more) of the file, and how many of its tensors are none.

    ``scale`` None gives each matrix the scale that training would store it with. The file may be an altgrad
    checkpoint, a torch state dict (also one inside a training checkpoint) or .safetensors.

    Raises:
        CheckpointError: the file cannot be read or trusted, or holds no float matrix.
    """
    fits, others = [], 0
    for name, tensor in read_tensors(path):
        if tensor.is_floating_point() and tensor.dim() >= 2 and tensor.numel():
            fits.append(
                fit_tensor(name, tensor, format, learning_rate=learning_rate, beta1=beta1, scale=scale)
            )
        else:
            others += 1
    if not fits:
        raise CheckpointError(
            "the file holds no float matrix to round",
            where=str(path),
            allowed="float tensors of 2 dimensions or more",
        )
    return fits, others


@torch.no_grad()
def fit_tensor(
    name: str, tensor: Tensor, format: FP8Format, *, learning_rate: float, beta1: float, scale: float | None
) -> TensorFit:
    """``tensor`` (float, any shape) rounded once, nearest and saturating, and what that did."""
    x = tensor.detach().to("cpu").float()
    finite = torch.isfinite(x)
    amax = float(torch.where(finite, x.abs(), 0.0).max())
    s = stored_weight_scale(amax, format, None) if scale is None else scale
    counts = torch.zeros(len(STATS), dtype=torch.float64)
    rounded = round_to_grid(x, format, s, stats=counts)
    row = dict(zip(STATS, counts.tolist(), strict=True))
    use = measure_code_use(code_histogram(x, format, s).unsqueeze(0), format)[0].tolist()
    kept = rounded[finite]
    spread = kept.numel() > 0 and learning_rate > 0
    return TensorFit(
        name=name,
        shape=tuple(tensor.shape),
        values=tensor.numel(),
        nonfinite=int(row["nonfinite"]),
        amax=amax,
        scale=s,
        overflow=row["overflow"] / row["count"],
        underflow=row["underflow"] / row["nonzero"] if row["nonzero"] else None,
        sqnr_db=_sqnr_db(x[finite], kept),
        codes_used=codes_used(dict(zip(CODE_USE_COLUMNS, use, strict=True))),
        predicted_stall=float(predicted_stall_rate(kept, format, s, learning_rate, beta1))
        if spread
        else None,
        predicted_stall_first_step=float(first_step_stall_rate(kept, format, s, learning_rate))
        if spread
        else None,
    )


def _sqnr_db(x: Tensor, rounded: Tensor) -> float | None:
    """10 log10(|x|^2 / |x - Q(x)|^2); None without a signal, inf without noise."""
    signal = float(x.double().square().sum())
    noise = float((x.double() - rounded.double()).square().sum())
    if signal == 0:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the network in a file, by name; nothing in the file is ever run.

    Raises:
        CheckpointError: as ``fit_file``.
    """
    if path.suffix == ".safetensors":
        yield from _read_safetensors(path)
        return
    from altgrad_cli.checkpoints.file import open_archive, read_checkpoint

    payload, sealed = open_archive(path)
    yield from _tensors_in(_network_of(read_checkpoint(path) if sealed else payload))


def _network_of(payload: Any) -> Any:
    if isinstance(payload, Mapping):
        for key in _NETWORKS:
            if isinstance(payload.get(key), Mapping):
                return payload[key]
    return payload


def _tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "tensor", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors_in(item, f"{name}.{index}" if name else str(index))


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                yield name, file.get_tensor(name)
    except FileNotFoundError:
        raise CheckpointError("there is no such file", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a readable .safetensors file: {error}", where=str(path)) from None
