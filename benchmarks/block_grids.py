"""Rounding in blocks, scales included, beside one scale a tensor and torchao's emulation of the formats."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.rounding.statistics import STATS
from benchmarks.peers import Way
from benchmarks.section import Claim, Options, Section, reason, table
from benchmarks.timing import interleave

NAMES = ("MXFP8_E4M3", "MXFP4", "NVFP4", "E4M3@row:float32", "E4M3@128x128:float32")
LIMIT = 1.6
"""Promised at 16 M values: at most so many times the same element format with one scale a tensor."""


def ours(x: Tensor, name: str) -> Iterator[Way]:
    """Scales and rounding into a given output, and the same with all counters."""
    grid, out = operand_grid(parse_format(name), "amax"), torch.empty_like(x)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    yield Way(name, lambda: grid.round(x, grid.scales(x), out=out))
    yield Way(f"{name}, all counters", lambda: grid.round(x, grid.scales(x), out=out, stats=row))


def torchao(x: Tensor) -> Iterator[Way]:
    """Its reference of MX and NVFP4, to codes and back, as a training that emulates them would call it."""
    from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor

    def mx(element: object) -> Tensor:
        scale, data = mx_tensor.to_mx(x, element, 32)
        values: Tensor = mx_tensor.to_dtype(data, scale, element, 32, torch.float32)
        return values

    def nvfp4() -> Tensor:
        tensor = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().max())
        values: Tensor = nvfp4_tensor.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=tensor).dequantize(
            torch.float32
        )
        return values

    yield Way("torchao: MXFP8_E4M3", lambda: mx(torch.float8_e4m3fn))
    yield Way("torchao: MXFP4", lambda: mx(torch.float4_e2m1fn_x2))
    yield Way("torchao: NVFP4", nvfp4)


def section(options: Options) -> Section:
    """One table, and what was promised of it."""
    shape = (256, 256) if options.quick else (4096, 4096)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = {"E4M3": "one scale, E4M3", "E2M1": "one scale, E2M1"}
    ways = [Way(said, next(ours(x, name)).call) for name, said in plain.items()]
    ways += [way for name in NAMES for way in ours(x, name)]
    left_out: dict[str, str] = {}
    try:
        theirs = list(torchao(x))
        for way in theirs:
            way.call()
        ways += theirs
    except Exception as error:  # noqa: BLE001 - a broken neighbour is named, and the rest is measured
        left_out["torchao's block formats"] = reason(error)
    rounds, seconds = (3, 0.2) if options.quick else (15, 4.0)
    measured = interleave({way.name: way.call for way in ways}, rounds=rounds, seconds_each=seconds)
    rows, claims = [], []
    for name, times in measured.items():
        element = "E2M1" if "FP4" in name or "E2M1" in name else "E4M3"
        low, median, high = times.ratio(measured[plain[element]])
        nanoseconds = f"{times.median / x.numel() * 1e9:.2f}"
        rows.append((name, f"{median:.2f}", f"{low:.2f} to {high:.2f}", nanoseconds))
        if name in NAMES:
            claims.append(Claim(f"{name}, scales and rounding, 16 M values, to one scale", median, LIMIT))
        ours_of = name.removeprefix("torchao: ")
        if ours_of != name:
            ratio = measured[ours_of].ratio(times)[1]
            claims.append(Claim(f"{ours_of}, scales and rounding, 16 M values, to torchao", ratio, 1.0))
    head = ("way", "times one scale a tensor", "quartiles", "ns a value")
    size = "64 K values: no figure here counts" if options.quick else "16 M values, rows of 4096"
    lines = ("## Blocks", "", f"### {size}", "", *table(head, rows), "")
    return Section(lines=lines, claims=tuple(claims), left_out=left_out)
