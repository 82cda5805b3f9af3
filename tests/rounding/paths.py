"""Every way the program can round a tensor: the conformance tests run each against the same oracles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.native import call
from altgrad_cli.rounding.quantize import STATS, quantize, round_to_grid

Path = Callable[..., Tensor]


def need_kernel() -> None:
    """Skip where no compiler is. Where one is, a kernel that was refused for its bits is a failure."""
    if call.native_kernel() is None:
        assert not any(map(shutil.which, ("cc", "gcc", "clang"))), "a compiler, and no kernel"
        pytest.skip("no compiler here")


def _given_out(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    out = torch.full(x.shape, 7.0)
    assert round_to_grid(x, format, scale, out=out, **options) is out  # type: ignore[arg-type]
    return out


def _in_place(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    values = x.clone()
    return round_to_grid(values, format, scale, out=values, **options)  # type: ignore[arg-type]


def _counted(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    row = torch.zeros(len(STATS), dtype=torch.float64)
    return round_to_grid(x, format, scale, stats=row, **options)  # type: ignore[arg-type]


def _counted_in_place(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    row, values = torch.zeros(len(STATS), dtype=torch.float64), x.clone()
    return round_to_grid(values, format, scale, out=values, stats=row, **options)  # type: ignore[arg-type]


def _tensor_scale(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    return round_to_grid(x, format, torch.tensor(scale), **options)  # type: ignore[arg-type]


def _transposed(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    strided = torch.stack([x, x + 1], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    out = torch.empty(*x.shape, 2)[..., 1]
    return round_to_grid(strided, format, scale, out=out, **options)  # type: ignore[arg-type]


def _public(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    return quantize(x.requires_grad_(), format, scale, **options).detach()  # type: ignore[arg-type]


def _public_given_out(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    out = torch.full(x.shape, 7.0)
    assert quantize(x, format, scale, out=out, **options) is out  # type: ignore[arg-type]
    return out


def _float64(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    return round_to_grid(x.double(), format, scale, **options)  # type: ignore[arg-type]


def _without_kernel(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    with mock.patch.object(call, "native_kernel", return_value=None):
        return round_to_grid(x, format, scale, **options)  # type: ignore[arg-type]


def _counted_without_kernel(x: Tensor, format: FP8Format, scale: float, **options: object) -> Tensor:
    with mock.patch.object(call, "native_kernel", return_value=None):
        return _counted(x, format, scale, **options)


PATHS: dict[str, Path] = {
    "fresh": round_to_grid,
    "given out": _given_out,
    "in place": _in_place,
    "counted": _counted,
    "counted in place": _counted_in_place,
    "tensor scale": _tensor_scale,
    "strided": _transposed,
    "autograd": _public,
    "public, given out": _public_given_out,
    "float64": _float64,
    "without a kernel": _without_kernel,
    "counted without a kernel": _counted_without_kernel,
}
