"""Rounding without a compiler: slices that stay in the cache on the CPU, one slice elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from altgrad_cli.rounding.constants import RoundingPlan, is_power_of_two
from altgrad_cli.rounding.kernel import Mode, Scale, round_slice
from altgrad_cli.rounding.scratch import SLICE, Scratch, scratch
from altgrad_cli.rounding.statistics import (
    Counters,
    SliceCounter,
    add_row,
    count_everywhere,
    count_extremes,
    own_units,
    safe_magnitude,
)
from altgrad_cli.rounding.stochastic import Key, RandomWork, advanced, random_bits


def round_eager(
    x: Tensor,
    out: Tensor,
    plan: RoundingPlan,
    scale: Scale,
    random: Key | Tensor | None,
    stats: Tensor | None,
    counters: Counters = "all",
    *,
    rescale: bool = True,
) -> None:
    """As ``native.call.round_flat``."""
    size = x.numel()
    mode = Mode(rescale=rescale)
    if stats is not None and counters == "extremes":
        x = as_carrier(x)
        within = count_extremes(x, stats) <= safe_magnitude(plan) and not isinstance(scale, Tensor)
        mode = Mode(rescale=rescale, within_limit=within)
        stats = None
    if size == 0:
        if stats is not None:
            stats.zero_()
        return
    divisor = _divisor(plan, scale, x.device)
    on_cpu = x.device.type == "cpu"
    counter = SliceCounter(plan) if stats is not None and on_cpu else None
    if on_cpu and size > SLICE:
        parts = zip(torch.split(x, SLICE), torch.split(out, SLICE), range(0, size, SLICE), strict=True)
    else:
        parts = zip((x,), (out,), (0,), strict=True)
    for part, target, start in parts:
        space = scratch(part.numel(), part.device)
        if part.dtype != torch.float32:
            narrow_into(part, target)
            part = target
        work = None if random is None else _random_work(random, start, space)
        if counter is not None:
            within = counter.before(part, space)
            known = Mode(magnitude_in_gap=True, within_limit=within)
            round_slice(part, target, space.gap, plan, divisor, work, known)
            counter.after(target, space)
        else:
            before = part.clone() if stats is not None else None
            round_slice(part, target, space.gap, plan, divisor, work, mode)
            if stats is not None and before is not None:
                used = scale if isinstance(scale, Tensor) else plan.scale
                stats.copy_(count_everywhere(before, target, plan, used))
    if counter is not None and stats is not None:
        stats.numpy()[:] = counter.row()


def round_blocks_eager(
    x: Tensor,
    out: Tensor,
    scale: Tensor,
    plan: RoundingPlan,
    random: Key | Tensor | None,
    stats: Tensor | None,
    counters: Counters = "all",
) -> None:
    """As ``native.call.round_blocks``."""
    x, scale = as_carrier(x), scale.float()
    if stats is not None and counters == "extremes":
        count_extremes(x.view(-1), stats)
        stats = None
    if stats is not None:
        stats.zero_()
    start = 0
    for part, target, s in _parts(x, out, scale):
        given = part.clone() if stats is not None and part.data_ptr() == target.data_ptr() else part
        flat = torch.div(part, s, out=target).view(-1)
        later = random[start : start + flat.numel()] if isinstance(random, Tensor) else random
        later = advanced(later, start) if isinstance(later, tuple) else later
        counted = None if stats is None or x.device.type != "cpu" else torch.empty_like(stats)
        round_eager(flat, flat, plan, 1.0, later, counted)
        target.mul_(s)
        start += flat.numel()
        if stats is not None:
            if counted is None or not own_units(counted, given, target):
                counted = count_everywhere(given, target, plan, s)
            add_row(stats, counted)


def tile_amax_eager(matrix: Tensor, down: int, along: int) -> Tensor:
    """As ``native.call.tile_amax``."""
    height, width = matrix.shape
    x = as_carrier(matrix)
    if height % down or width % along:
        x = functional.pad(x, (0, -width % along, 0, -height % down))
    tall, wide = x.shape[0] // down, x.shape[1] // along
    # Bits of magnitudes are ordered as the magnitudes are, nan on top, and integers are compared faster.
    found = torch.zeros((tall, wide), dtype=torch.int32, device=x.device)
    step = max(1, SLICE // max(1, down * x.shape[1])) if x.device.type == "cpu" else max(1, tall)
    for start in range(0, tall if x.numel() else 0, step):
        part = x[start * down : (start + step) * down].reshape(-1)
        bits = torch.abs(part, out=scratch(part.numel(), x.device).gap.values).view(torch.int32)
        torch.amax(bits.view(-1, down, wide, along), (1, 3), out=found[start : start + step])
    return found.view(torch.float32)


def _parts(x: Tensor, out: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Slices along the first dimension that has any length, so that they stay in the cache on the CPU."""
    if x.numel() == 0:
        return
    across, step = _across(x)
    for start in range(0, x.shape[across], step):
        length = min(step, x.shape[across] - start)
        several = scale.shape[across] > 1
        s = scale.narrow(across, start, length) if several else scale
        yield x.narrow(across, start, length), out.narrow(across, start, length), s


def _across(x: Tensor) -> tuple[int, int]:
    """That dimension, and the length of a slice along it."""
    across = next((dim for dim, size in enumerate(x.shape) if size > 1), 0)
    whole = x.device.type != "cpu"
    return across, x.shape[across] if whole else max(1, SLICE * x.shape[across] // x.numel())


def block_slice(x: Tensor) -> int:
    """How many values of ``x`` are counted together; 0 of nothing."""
    if x.numel() == 0:
        return 0
    across, step = _across(x)
    return min(step, x.shape[across]) * (x.numel() // x.shape[across])


def _random_work(random: Key | Tensor, start: int, space: Scratch) -> RandomWork:
    memory = space.random.bits
    if isinstance(random, Tensor):
        bits = random[start : start + memory.numel()]
    else:
        bits = random_bits(advanced(random, start), memory, space.noise.bits)
    return RandomWork(bits, space.noise.values, space.whole.values, memory)


def _divisor(plan: RoundingPlan, scale: Scale, device: torch.device) -> Scale | None:
    if isinstance(scale, Tensor):
        s = scale.to(torch.float32)
        return s if plan.divisor is None else s * plan.divisor  # a uniform grid: its step joins the scale
    if plan.divisor is None or device.type == "cpu" or is_power_of_two(plan.divisor):
        return plan.divisor
    # A number as divisor would be turned into its reciprocal on the GPU, which rounds differently.
    return torch.full((), plan.divisor, dtype=torch.float32, device=device)


def as_carrier(x: Tensor) -> Tensor:
    """``x`` itself where it is float32, else a narrowed copy."""
    if x.dtype == torch.float32:
        return x
    carrier = torch.empty_like(x, dtype=torch.float32)
    narrow_into(x, carrier)
    return carrier


def narrow_into(x: Tensor, out: Tensor) -> None:
    """Write ``x`` into the float32 ``out``; float64 is rounded to odd, so that no later tie depends on it."""
    out.copy_(x)
    if x.dtype != torch.float64:
        return
    back = out.double()
    inexact = (back != x).int()
    outward = (back.abs() > x.abs()).int()
    bits = out.view(torch.int32)
    bits.sub_(outward)  # toward zero
    bits.bitwise_or_(inexact)
