"""The same rounding, fused by torch.compile into one pass.

One kernel is built per format, rounding, overflow and way of counting. The scale is an argument, so a scale
that moves every step builds nothing new. The bits are those of the eager form. Without a working compiler
everything falls back to it, after one line in the log.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.constants import (
    Carrier,
    Overflow,
    Rounding,
    RoundingPlan,
    is_power_of_two,
    plan_rounding,
)
from altgrad_cli.rounding.eager import round_eager
from altgrad_cli.rounding.kernel import Scale
from altgrad_cli.rounding.statistics import STATS, count_everywhere, merge_rows
from altgrad_cli.rounding.stochastic import Key, advanced
from altgrad_cli.rounding.traced import LINE, finish_rows, round_and_count, round_traced

log = logging.getLogger(__name__)

SMALLEST = 1 << 14
"""Below this many values calling a compiled kernel costs more than it saves."""

_WARM_UP = 1 << 20  # a first call of this size makes the compiler plan for large tensors

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


class _Failed:
    """Why compiling is given up for the rest of the process, once it failed."""

    reason: str | None = None


@lru_cache(maxsize=1)
def _missing_compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")
    return None if any(shutil.which(name) for name in names if name) else "no C++ compiler was found"


def compile_failure(device: torch.device) -> str | None:
    """Why nothing can be compiled for ``device`` on this machine, or None. Logged when first found."""
    if _Failed.reason is None and device.type == "cpu" and _missing_compiler():
        _give_up(str(_missing_compiler()))
    return _Failed.reason


def _give_up(reason: str) -> None:
    _Failed.reason = reason
    log.warning("%s: the quantizer runs uncompiled, with the same numbers but slower", reason)


class _Variant(NamedTuple):
    """What a kernel is specialised for; everything else is an argument."""

    format: FP8Format
    rounding: Rounding
    overflow: Overflow
    counted: bool
    in_place: bool
    power_of_two: bool
    device: torch.device
    threads: int

    @property
    def assume_finite(self) -> bool:
        """Whether values are counted as if all were finite, and counted again where they were not."""
        return self.counted and not self.in_place and self.device.type == "cpu"


def round_compiled(
    x: Tensor,
    out: Tensor,
    plan: RoundingPlan,
    scale: Scale,
    random: Key | Tensor | None,
    stats: Tensor | None,
) -> bool:
    """``round_eager`` in one pass. Returns False, having done nothing, where there is no such form.

    That is: without a compiler, on float64 carriers, for given random bits, and for tensors so small that
    the eager form is faster.
    """
    if (
        x.numel() < SMALLEST
        or plan.carrier is Carrier.FLOAT64
        or x.dtype != torch.float32
        or isinstance(random, Tensor)
    ):
        return False
    if compile_failure(x.device):
        return False
    power_of_two = not isinstance(scale, Tensor) and is_power_of_two(plan.scale) and plan.scale >= 2.0**-100
    variant = _Variant(
        plan.format,
        "nearest" if random is None else "stochastic",
        "saturate" if plan.saturate else "ieee",
        stats is not None,
        x.data_ptr() == out.data_ptr(),
        power_of_two,
        x.device,
        torch.get_num_threads(),
    )
    try:
        kernel = _kernel(variant)
    except (
        RuntimeError,
        OSError,
    ) as error:  # what torch's compilers raise: their own errors derive from these
        _give_up(str(error).splitlines()[0])
        return False
    scales = _scale_pair(scale if isinstance(scale, Tensor) else plan.scale, power_of_two, x.device)
    key = _key_tensor(random or (0, 0), x.device)
    if stats is None:
        kernel(x, out, scales, key, _ones(0, x.device), _ones(0, x.device))
        return True
    whole = x.numel() - x.numel() % LINE
    lines, target = x[:whole].view(-1, LINE), out[:whole].view(-1, LINE)
    kernel(lines, target, scales, key, _ones(len(lines), x.device), stats)
    if variant.assume_finite and not all(map(math.isfinite, stats.tolist())):
        stats.copy_(count_everywhere(lines, target, plan, scale))
    if whole < x.numel():
        rest = torch.empty_like(stats)
        later = None if random is None else advanced(random, whole)
        round_eager(x[whole:], out[whole:], plan, scale, later, rest)
        merge_rows(stats, rest)
    return True


def _scale_pair(scale: Scale, power_of_two: bool, device: torch.device) -> Tensor:
    """What x is divided by (multiplied by, for a power of two) and what the result is multiplied by."""
    if isinstance(scale, Tensor):
        return scale.to(torch.float32).expand(2)
    return _host_scale_pair(scale, power_of_two, device)


@lru_cache(maxsize=1024)
def _host_scale_pair(scale: float, power_of_two: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        first = 1 / scale if power_of_two else scale
        return torch.tensor((first, scale), dtype=torch.float32, device=device)


@lru_cache(maxsize=8)
def _key_tensor(key: Key, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(key, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)
def _ones(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(count, device=device)


def _no_guards(guards: Sequence[object]) -> list[bool]:
    """Skip torch's checks whether a compiled form still applies: ``_Variant`` has decided that."""
    return [False] * len(guards)


@lru_cache(maxsize=256)
def _kernel(variant: _Variant) -> Kernel:
    plan = plan_rounding(variant.format, None, variant.overflow)
    counted, in_place, power_of_two = variant.counted, variant.in_place, variant.power_of_two
    stochastic, device, assume_finite = (
        variant.rounding == "stochastic",
        variant.device,
        variant.assume_finite,
    )

    def kernel(x: Tensor, out: Tensor, scales: Tensor, key: Tensor, ones: Tensor, row: Tensor) -> None:
        random = key if stochastic else None
        if counted:
            value, (amax, sums) = round_and_count(
                x, scales, plan, random, ones, power_of_two=power_of_two, assume_finite=assume_finite
            )
            size = torch.full((1,), x.numel(), dtype=torch.float64, device=device)
            row.copy_(finish_rows(amax.view(1), sums.view(1, -1), size, assume_finite=assume_finite)[0])
        else:
            value = round_traced(x, scales, plan, random, power_of_two=power_of_two).value
        (x if in_place else out).copy_(value)

    # torch keeps its compiled forms, and a small limit of them, by code object: give each kernel its own.
    kernel.__code__ = kernel.__code__.replace(co_name=f"round_{variant.format.name}")
    # Only the size is dynamic: the format's numbers as symbols would keep the compiler from folding them.
    compiled = torch.compile(kernel, fullgraph=True, options={"guard_filter_fn": _no_guards})
    with torch.no_grad():
        x = torch.zeros((_WARM_UP // LINE, LINE) if counted else _WARM_UP, device=device)
        out = x if in_place else torch.empty_like(x)
        ones = torch.ones(len(x) if counted else 0, device=device)
        for tensor in (x, out, ones) if counted else (x, out):
            torch._dynamo.mark_dynamic(tensor, 0)
        key = torch.zeros(2, dtype=torch.int32, device=device)
        row = torch.zeros(len(STATS) if counted else 0, dtype=torch.float64, device=device)
        compiled(x, out, _scale_pair(1.0, power_of_two, device), key, ones, row)
    return compiled
