"""Rounding float32 tensors onto a format: altgrad and everything else that can, in one round-robin.

Contestants get the same tensor on the same threads. Ours divides by a scale and multiplies back; most peers
have no scale and do less. Each peer's result is compared with the exact reference's grid first, and what it
gets wrong is said in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.quantization.quantize import STATS, round_to_grid

Call = Callable[[], object]

PEER_TYPES = {
    "E5M2": ("float8_e5m2", "float8_e5m2"),
    "E4M3": ("float8_e4m3fn", "float8_e4m3fn"),
    "E3M4:ieee": (None, "float8_e3m4"),
}
"""Format -> the type of torch and of ml_dtypes that is this grid, where there is one."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of rounding a tensor: a call without arguments, and the result of one call."""

    name: str
    call: Call
    result: Callable[[], Tensor]


def ours(x: Tensor, fmt: FP8Format, scale: float, *, compiled: bool) -> Iterator[Contestant]:
    """Our ways: given or fresh output, counted, stochastic."""
    out = torch.empty_like(x)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    way = "compiled" if compiled else "eager"

    def contestant(name: str, **options: Any) -> Contestant:
        def call() -> Tensor:
            return round_to_grid(x, fmt, scale, compiled=compiled, **options)

        return Contestant(f"altgrad {way}, {name}", call, call)

    yield contestant("given output", out=out)
    yield contestant("given output, all counters", out=out, stats=row)
    yield contestant("stochastic", out=out, rounding="stochastic", generator=generator)
    yield contestant("fresh output")


def peers(x: Tensor, fmt: FP8Format, *, slow: bool) -> Iterator[Contestant]:
    """Every installed peer that can express ``fmt``; the slow ones only where asked."""
    torch_type, ml_type = PEER_TYPES.get(fmt.name, (None, None))
    if torch_type:
        dtype = getattr(torch, torch_type)
        yield _contestant(f"torch {torch_type}", lambda: x.to(dtype).float())
    if ml_type:
        import ml_dtypes

        array, narrow = x.numpy(), getattr(ml_dtypes, ml_type)
        yield _contestant("ml_dtypes", lambda: torch.from_numpy(array.astype(narrow).astype("float32")))
    if fmt.name == "E5M2":
        yield from _optional(_qtorch, x, fmt)
        yield from _optional(_torchao, x, fmt)
    if slow:
        yield from _optional(_gfloat, x, fmt)
        if fmt.name == "E5M2":
            yield from _optional(_pychop, x, fmt)


missing: dict[str, str] = {}
"""Peer -> why it was not measured."""


def _contestant(name: str, call: Callable[[], Tensor]) -> Contestant:
    return Contestant(name, call, call)


def _optional(
    make: Callable[[Tensor, FP8Format], list[Contestant]], x: Tensor, fmt: FP8Format
) -> list[Contestant]:
    try:
        return make(x, fmt)
    except (ImportError, OSError, RuntimeError) as error:
        missing[make.__name__.strip("_")] = str(error).splitlines()[0][:120]
        return []


def _qtorch(x: Tensor, fmt: FP8Format) -> list[Contestant]:
    from qtorch.quant import float_quantize

    e, m = fmt.exponent_bits, fmt.mantissa_bits
    return [
        _contestant(f"QPyTorch {mode}", lambda mode=mode: float_quantize(x, exp=e, man=m, rounding=mode))
        for mode in ("nearest", "stochastic")
    ]


def _torchao(x: Tensor, fmt: FP8Format) -> list[Contestant]:
    from torchao.prototype import custom_fp_utils as fp

    e, m = fmt.exponent_bits, fmt.mantissa_bits
    return [
        _contestant(
            "torchao custom float",
            lambda: fp._floatx_unpacked_to_f32(fp._f32_to_floatx_unpacked(x, e, m), e, m),
        )
    ]


def _gfloat(x: Tensor, fmt: FP8Format) -> list[Contestant]:
    import gfloat

    from tests.formats.oracles import gfloat_info

    info = gfloat_info(fmt)
    return [_contestant("gfloat (torch)", lambda: gfloat.round_ndarray(info, x, sat=True))]


def _pychop(x: Tensor, fmt: FP8Format) -> list[Contestant]:
    import pychop

    pychop.backend("torch")
    chop = pychop.Chop(exp_bits=fmt.exponent_bits, sig_bits=fmt.mantissa_bits, rmode=1)
    chop(x[:10])
    return [_contestant("pychop", lambda: chop(x))]


def contestants(x: Tensor, name: str, *, compiled: bool, slow: bool) -> list[Contestant]:
    """Everything to be timed for format ``name`` on ``x``, a plain copy first."""
    fmt = parse_format(name)
    out = torch.empty_like(x)
    scale = 0.37 if fmt.exponent_bits else 4.1  # no power of two: the division is real
    found = [_contestant("copy", lambda: out.copy_(x))]
    found += ours(x, fmt, scale, compiled=False)
    if compiled:
        found += ours(x, fmt, scale, compiled=True)
    return found + list(peers(x, fmt, slow=slow))


def disagreement(contestant: Contestant, x: Tensor, fmt: FP8Format) -> float:
    """Share of in-range values that a peer rounds to something else than we do without a scale."""
    inside = x.flatten()[:4096].abs() <= fmt.max_representable_value
    expected = round_to_grid(x.flatten()[:4096], fmt, 1.0)
    got = contestant.result().flatten()[:4096]
    return float((got != expected)[inside].double().mean())
