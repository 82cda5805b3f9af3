"""The neighbouring tools that round tensors: what each can express, and its own fastest way to do it.

Each function gives a peer's ways for one tensor and format, or nothing where the peer cannot express the
format; it raises ImportError where the peer is not installed. What a peer gets wrong is measured in
``quantizers``, not judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from benchmarks.section import reason


@dataclass(frozen=True, slots=True)
class Way:
    """One way of rounding a tensor: its name, and a call that returns the rounded tensor."""

    name: str
    call: Callable[[], Tensor]


TORCH_TYPES = {"E5M2": "float8_e5m2", "E4M3": "float8_e4m3fn", "BF16": "bfloat16"}
ML_TYPES = {
    "E5M2": "float8_e5m2",
    "E4M3": "float8_e4m3fn",
    "E3M4:ieee": "float8_e3m4",
    "BF16": "bfloat16",
}
"""Format -> the type that is this grid."""


def torch_cast(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """torch's own narrow types, there and back."""
    if fmt.name in TORCH_TYPES:
        narrow = getattr(torch, TORCH_TYPES[fmt.name])
        yield Way(f"torch {TORCH_TYPES[fmt.name]}", lambda: x.to(narrow).float())


def ml_dtypes(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """The numpy types of ml_dtypes, there and back."""
    import ml_dtypes as package

    if fmt.name in ML_TYPES:
        array, narrow = x.numpy(), getattr(package, ML_TYPES[fmt.name])
        yield Way("ml_dtypes", lambda: torch.from_numpy(array.astype(narrow).astype("float32")))


def gfloat(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """gfloat on torch tensors, every format."""
    import gfloat as package

    from tests.formats.oracles import gfloat_info

    info = gfloat_info(fmt)
    yield Way("gfloat", lambda: package.round_ndarray(info, x, sat=True))


def qtorch(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """QPyTorch: any exponent and mantissa above 0 with the standard bias; builds C++ at import."""
    from qtorch.quant import float_quantize

    e, m = fmt.exponent_bits, fmt.mantissa_bits
    if e and m and fmt.bias == _standard_bias(fmt):
        yield Way("QPyTorch", lambda: float_quantize(x, exp=e, man=m, rounding="nearest"))
        yield Way("QPyTorch, stochastic", lambda: float_quantize(x, exp=e, man=m, rounding="stochastic"))


def pychop(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """pychop on torch tensors: any exponent and mantissa with the standard bias."""
    import pychop as package

    if fmt.exponent_bits > 1 and fmt.bias == _standard_bias(fmt):
        package.backend("torch")
        chop = package.Chop(exp_bits=fmt.exponent_bits, sig_bits=fmt.mantissa_bits, rmode=1)
        yield Way("pychop", lambda: chop(x))


def torchao(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """torchao's generic float conversion, eager and compiled: 8 bits at most, standard bias, no specials."""
    from torchao.prototype import custom_fp_utils as package

    e, m = fmt.exponent_bits, fmt.mantissa_bits
    if e and m and e + m < 8 and fmt.bias == _standard_bias(fmt):

        def convert(values: Tensor) -> Tensor:
            return package._floatx_unpacked_to_f32(package._f32_to_floatx_unpacked(values, e, m), e, m)

        yield Way("torchao", lambda: convert(x))
        compiled = torch.compile(convert, dynamic=False)
        yield Way("torchao, compiled", lambda: compiled(x))


def microxcaling(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """microxcaling's element-wise rounding; on no package index, so from a checkout on PYTHONPATH."""
    from mx.elemwise_ops import _quantize_elemwise_core

    e, m, limit = fmt.exponent_bits, fmt.mantissa_bits, fmt.max_representable_value
    if e > 1 and m and fmt.bias == _standard_bias(fmt):
        # Its bits are the mantissa's with the sign and the leading one.
        yield Way(
            "microxcaling",
            lambda: _quantize_elemwise_core(x, m + 2, e, limit, round="even", saturate_normals=True),
        )


def earlier_attempt(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """The earlier public attempt at this study, with its scale; from a checkout on PYTHONPATH."""
    from altgrad.quantization.formats import FORMAT_REGISTRY
    from altgrad.quantization.ops import quantize

    theirs = FORMAT_REGISTRY.get(fmt.name)
    if theirs is not None and theirs.bias == fmt.bias:
        one = torch.tensor(1.0)
        yield Way("the earlier attempt", lambda: quantize(x, theirs, one))


PEERS = (torch_cast, ml_dtypes, qtorch, torchao, gfloat, pychop, microxcaling, earlier_attempt)
FROM_A_CHECKOUT = (microxcaling, earlier_attempt)
"""Measured where a checkout of theirs is on PYTHONPATH."""
_ABSENT = "on no package index, and no checkout of it on PYTHONPATH"


def _standard_bias(fmt: FP8Format) -> int:
    return (1 << (fmt.exponent_bits - 1)) - 1


def peers(x: Tensor, fmt: FP8Format, *, compiled: bool) -> tuple[list[Way], dict[str, str]]:
    """Every way of every installed peer that can express ``fmt`` and works, and why others are missing."""
    found: list[Way] = []
    missing: dict[str, str] = {}
    for make in PEERS:
        name = make.__name__.replace("_", " ")
        try:
            ways = list(make(x, fmt))
        except ImportError as error:
            missing[name] = _ABSENT if make in FROM_A_CHECKOUT else reason(error)
            continue
        except Exception as error:  # noqa: BLE001 - a broken neighbour is named, and the others are measured
            missing[name] = reason(error)
            continue
        for way in ways:
            if way.name.endswith("compiled") and not compiled:
                continue
            try:
                way.call()
            except Exception as error:  # noqa: BLE001 - as above
                missing[way.name] = reason(error)
            else:
                found.append(way)
    return found, missing
