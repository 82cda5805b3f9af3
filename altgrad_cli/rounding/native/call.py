"""Rounding, and the amax of blocks: natively where possible, else eagerly, with the same bits."""

from __future__ import annotations

import ctypes
import logging
from ctypes import c_double, c_float, c_int32, c_int64, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.constants import Carrier, RoundingPlan, is_power_of_two, plan_rounding
from altgrad_cli.rounding.eager import (
    as_carrier,
    block_slice,
    round_blocks_eager,
    round_eager,
    tile_amax_eager,
)
from altgrad_cli.rounding.kernel import Scale
from altgrad_cli.rounding.native.build import NoLibrary, built, symbol
from altgrad_cli.rounding.scratch import SLICE
from altgrad_cli.rounding.statistics import STATS, Counters, safe_magnitude, smallest_normal
from altgrad_cli.rounding.stochastic import Key

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernel.c")
_DIMENSIONS = 8
_LONGEST_SUM = 16 * SLICE
"""The kernel sums torch's way up to here."""
_CARRIERS = (Carrier.INTEGERS, Carrier.FLOAT32, Carrier.FLOAT64)
_COUNTED: dict[Counters | None, int] = {None: 0, "extremes": 1, "all": 2}
_INPUTS = {torch.float32: 0, torch.bfloat16: 1}


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("carrier", "mantissa", "saturates", "negative_zero", "parity")),
        *((name, c_int32) for name in ("divides", "reciprocal")),
        *((name, c_float) for name in ("divisor", "factor", "limit", "overflow_value")),
        *((name, c_double) for name in ("lowest", "highest")),
        *((name, c_float) for name in ("scale", "maximum", "threshold", "min_normal")),
        ("safe", c_double),
    )


class _Blocks(ctypes.Structure):
    _fields_ = (
        ("dimensions", c_int64),
        ("sizes", c_int64 * _DIMENSIONS),
        ("strides", c_int64 * _DIMENSIONS),
        ("scales", c_void_p),
    )


_ROUND = (
    *(c_void_p, c_void_p, c_void_p, c_int32, c_void_p, c_int64, c_int64),
    *(c_int32, c_void_p, c_uint32, c_uint32, c_int32, c_int32, c_void_p, c_int32),
)
_TILE_AMAX = (c_void_p, c_int32, c_int64, c_int64, c_int64, c_int64, c_void_p, c_int32)


def round_flat(
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
    """Round ``x`` with one scale into ``out``; fill the row ``stats``.

    Args:
        x, out: contiguous, x of any float dtype and out float32, neither with a gradient; may be the same.
        random: the key or the bits of stochastic rounding.
        counters: what of the row to fill; the others are NaN.
        rescale: as ``Mode.rescale``.
    """
    kernel = _kernel_for(x)
    if kernel is not None and not isinstance(scale, Tensor):
        counted = None if stats is None else counters
        x = _readable(x, out, counted)
        if _call(kernel, x, out, plan, None, SLICE, random, stats, counted, rescale=rescale):
            return
    with torch.no_grad():
        round_eager(x.view(-1), out.view(-1), plan, scale, random, stats, counters, rescale=rescale)


def round_blocks(
    x: Tensor,
    out: Tensor,
    scale: Tensor,
    plan: RoundingPlan,
    random: Key | Tensor | None,
    stats: Tensor | None,
    counters: Counters = "all",
) -> None:
    """Round ``x`` / ``scale`` and multiply back; fill the row ``stats``.

    Args:
        x, out: as for ``round_flat``.
        scale: without a gradient, used as float32, broadcasts with x dimension by dimension.
        plan: made for scale 1.
        random, counters: as ``round_flat``, in the order of x.
    """
    kernel = _kernel_for(x)
    part = block_slice(x)
    if kernel is not None and x.dim() <= _DIMENSIONS and part <= _LONGEST_SUM:
        counted = None if stats is None else counters
        x = _readable(x, out, counted)
        scale = scale.double()
        steps = [stride if size > 1 else 0 for stride, size in zip(scale.stride(), scale.shape, strict=True)]
        blocks = _Blocks(x.dim(), tuple(x.shape), tuple(steps), scale.data_ptr())
        if _call(kernel, x, out, plan, blocks, part, random, stats, counted, rescale=True):
            return
    with torch.no_grad():
        round_blocks_eager(x, out, scale, plan, random, stats, counters)


def tile_amax(matrix: Tensor, down: int, along: int) -> Tensor:
    """The largest |x| of each tile of ``down`` x ``along`` values: float32 (tiles down, tiles along).

    NaN where a tile holds one, 0 in an empty matrix. Tiles at the ends are cut.

    Args:
        matrix: 2-D, of any float dtype.
    """
    kernel = _kernel_for(matrix)
    if kernel is None:
        return tile_amax_eager(matrix, down, along)
    return _tile_amax(kernel, matrix, down, along)


def _tile_amax(kernel: Any, matrix: Tensor, down: int, along: int) -> Tensor:
    x = (matrix if matrix.dtype in _INPUTS else as_carrier(matrix)).contiguous()
    height, width = x.shape
    found = torch.zeros((-(-height // down), -(-width // along)), dtype=torch.int32)
    kernel.altgrad_tile_amax(
        *(x.data_ptr(), _INPUTS[x.dtype], height, width, down, along),
        *(found.data_ptr(), torch.get_num_threads()),
    )
    return found.view(torch.float32)


def _readable(x: Tensor, out: Tensor, counted: Counters | None) -> Tensor:
    """``x`` in a type that the kernel reads, where it is still to be read once ``out`` is written."""
    if x.dtype not in _INPUTS:
        return as_carrier(x)
    return x.clone() if counted == "all" and x.data_ptr() == out.data_ptr() else x


def _call(
    kernel: Any,
    x: Tensor,
    out: Tensor,
    plan: RoundingPlan,
    blocks: _Blocks | None,
    part: int,
    random: Key | Tensor | None,
    stats: Tensor | None,
    counted: Counters | None,
    *,
    rescale: bool,
) -> bool:
    """Whether the row holds what it should; ``out`` always does."""
    key, bits = (0, 0), None
    if isinstance(random, Tensor):
        bits = random.to(torch.int32).contiguous()
    elif random is not None:
        key = random
    row = stats if stats is None or stats.is_contiguous() else torch.empty_like(stats)
    failed = kernel.altgrad_round(
        ctypes.byref(_plan_in_c(plan)),
        None if blocks is None else ctypes.byref(blocks),
        x.data_ptr(),
        _INPUTS[x.dtype],
        out.data_ptr(),
        x.numel(),
        part,
        random is not None,
        None if bits is None else bits.data_ptr(),
        key[0] & 0xFFFFFFFF,
        key[1] & 0xFFFFFFFF,
        rescale,
        _COUNTED[counted],
        None if row is None else row.data_ptr(),
        torch.get_num_threads(),
    )
    if row is not stats and stats is not None and row is not None:
        stats.copy_(row)
    return not failed


@lru_cache(maxsize=4096)
def _plan_in_c(plan: RoundingPlan) -> _Plan:
    fmt = plan.format
    one = 1.0 if plan.divisor is None else plan.divisor
    turned = 1 if fmt.mantissa_bits == 0 else 0
    return _Plan(
        carrier=_CARRIERS.index(plan.carrier),
        mantissa=fmt.mantissa_bits,
        saturates=plan.saturate,
        negative_zero=fmt.negative_zero,
        parity=-1 if plan.tie_parity is None else plan.tie_parity,
        divides=not (is_power_of_two(one) and 2.0**-126 <= one <= 2.0**126),
        reciprocal=plan.gap_is_normal and plan.highest_binade <= 2.0 ** (127 - turned),
        divisor=one,
        factor=one,
        limit=plan.limit,
        overflow_value=0.0 if plan.overflow_value is None else plan.overflow_value,
        lowest=plan.lowest_binade,
        highest=plan.highest_binade,
        scale=plan.scale,
        maximum=fmt.max_representable_value,
        threshold=fmt.overflow_threshold,
        min_normal=smallest_normal(plan) or -1.0,
        safe=safe_magnitude(plan),
    )


def _kernel_for(x: Tensor) -> Any:
    return native_kernel() if x.device.type == "cpu" and x.numel() else None


@lru_cache(maxsize=1)
def native_kernel() -> Any:
    """The library of C functions, or None where there is none; why is logged once."""
    try:
        lanes = 8 if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2", "AVX512") else 4
        facts = (torch.__version__, torch.backends.cpu.get_cpu_capability())
        return _load(built(_SOURCE, [f"LANES={lanes}"], facts, lambda path: _has_torchs_bits(_load(path))))
    except (NoLibrary, OSError) as error:
        log.warning("%s: rounding runs on torch's operations, slower, with the same bits", error)
        return None


def _has_torchs_bits(kernel: Any) -> bool:
    """Whether values, counts and sums are those of torch's operations, for a format of each kind."""
    generator = torch.Generator().manual_seed(7)
    size = SLICE + 3 * 11_003
    x = torch.randn(size, generator=generator) * torch.exp2(
        torch.randint(-9, 9, (size,), generator=generator).float()
    )
    x[::50], x[7::90] = 0.0, -0.0
    out, expected = torch.empty_like(x), torch.empty_like(x)
    row, expected_row = torch.empty(2, len(STATS), dtype=torch.float64).unbind()
    cases = (("E5M2", 2.0**-9, None), ("E3M4", 0.3, None), ("E7M0", 1.0, None), ("E0M7", 0.1, (5, -6)))
    for name, scale, key in (*cases, ("E4M3", 0.25, (1, 2)), ("E8M0:bias=128", 1.0, None)):
        plan = plan_rounding(parse_format(name), scale, "saturate")
        done = _call(kernel, x, out, plan, None, SLICE, key, row, "all", rescale=True)
        round_eager(x, expected, plan, scale, key, expected_row)
        same = torch.equal(out.view(torch.int32), expected.view(torch.int32))
        if not (done and same and torch.equal(row, expected_row)):
            return False
    matrix = x[: 99 * 1003].view(99, 1003)
    tiles = ((1, 32), (50, 7))
    return all(torch.equal(_tile_amax(kernel, matrix, *t), tile_amax_eager(matrix, *t)) for t in tiles)


def _load(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    torchs = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    runtime = [symbol(torchs, f) for f in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")]
    if all(runtime):
        library.altgrad_use_threads.argtypes = (c_void_p, c_void_p, c_void_p)
        library.altgrad_use_threads(*runtime)
    library.altgrad_round.argtypes, library.altgrad_round.restype = _ROUND, c_int32
    library.altgrad_tile_amax.argtypes, library.altgrad_tile_amax.restype = _TILE_AMAX, None
    return library
