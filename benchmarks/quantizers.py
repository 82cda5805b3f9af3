"""Rounding float32 tensors onto a format: altgrad and everything else that can, in one round-robin.

Everybody gets the same tensor on the same threads. Ours is measured with a scale that is no power of two (it
divides and multiplies back), which no package peer does, and with scale 1, which is what they all do. What a
peer rounds to something else than the exact grid is said in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from benchmarks.peers import Way, peers
from benchmarks.section import Claim, Options, Section, table
from benchmarks.timing import Measured, interleave

SIZES = {"16 M values": (16_000_000,), "1 M values": (1 << 20,), "a 768 x 3072 weight": (768, 3072)}
FORMATS = ("E5M2", "E4M3", "E3M4", "E3M4:ieee", "E1M6", "E0M7", "E7M0", "BF16")
QUICK_FORMATS = ("E5M2", "E0M7")
NEAREST, PLAIN, COUNTED = "nearest, scale", "nearest, scale 1", "nearest, scale, all counters"
STOCHASTIC, FRESH, FRESH_PLAIN = (
    "stochastic, scale",
    "nearest, scale, fresh output",
    "nearest, scale 1, fresh output",
)
LIMITS = {NEAREST: 2.6, FRESH: 4.0, COUNTED: 4.5, STOCHASTIC: 9.0}
"""Promised at 16 M values: at most so many times a copy."""


def ours(x: Tensor, fmt: FP8Format) -> Iterator[Way]:
    """Our ways: into a given output unless said otherwise."""
    out = torch.empty_like(x)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    scale = 0.37 if fmt.exponent_bits else 4.1

    def way(name: str, s: float, **options: Any) -> Way:
        return Way(f"altgrad eager: {name}", lambda: round_to_grid(x, fmt, s, **options))

    yield way(NEAREST, scale, out=out)
    yield way(PLAIN, 1.0, out=out)
    yield way(COUNTED, scale, out=out, stats=row)
    yield way(STOCHASTIC, scale, out=out, rounding="stochastic", generator=generator)
    yield way(FRESH, scale)
    yield way(FRESH_PLAIN, 1.0)


def contestants(
    x: Tensor, fmt: FP8Format, *, compiled: bool, only: Sequence[str] = ()
) -> tuple[list[Way], list[Way], dict[str, str]]:
    """Our ways (``only`` those named, or all), the peers' that work, and why others are missing."""
    own = [way for way in ours(x, fmt) if not only or way.name in only]
    return own, *peers(x, fmt, compiled=compiled)


def timed(x: Tensor, ways: list[Way], *, rounds: int, seconds_each: float) -> dict[str, Measured]:
    """Every way, a plain copy into a given output, and one into a fresh tensor."""
    out = torch.empty_like(x)
    calls: dict[str, Any] = {"copy": lambda: out.copy_(x), "copy, fresh output": x.clone}
    return interleave(calls | {way.name: way.call for way in ways}, rounds=rounds, seconds_each=seconds_each)


def disagreement(way: Way, x: Tensor, fmt: FP8Format) -> float:
    """Share of the first 65,536 values, those in range, that a way rounds to something else than we do."""
    head = x.flatten()[: 1 << 16]
    inside = head.abs() <= fmt.max_representable_value
    expected = round_to_grid(head, fmt, 1.0)
    return float((way.call().flatten()[: head.numel()] != expected)[inside].double().mean())


def size_section(title: str, shape: tuple[int, ...], options: Options) -> tuple[Section, float]:
    """One table: every way on one size, E5M2; and the seconds a value of eager nearest rounding."""
    fmt = parse_format("E5M2")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    own, others, missing = contestants(x, fmt, compiled=options.compiled)
    rounds, seconds = (3, 0.2) if options.quick else (21, 3.0)
    measured = timed(x, [*own, *others], rounds=rounds, seconds_each=seconds)
    wrong = {way.name: disagreement(way, x, fmt) for way in others if "stochastic" not in way.name}
    rows = []
    for name, times in measured.items():
        low, median, high = times.ratio(measured["copy"])
        share = wrong.get(name)
        differs = "" if share is None else "none" if share == 0 else f"{share:.3%}"
        nanoseconds = f"{times.median / x.numel() * 1e9:.2f}"
        spread = f"{low:.2f} to {high:.2f}"
        rows.append((name, f"{median:.2f}", spread, nanoseconds, str(len(times.seconds)), differs))
    head = ("way", "times a copy", "quartiles", "ns a value", "rounds", "values off the grid")
    lines = [f"### {title}, E5M2", "", *table(head, rows), ""]
    peer_names = {way.name for way in others if "stochastic" not in way.name}
    claims = _claims(title, measured, peer_names)
    seconds_a_value = measured[f"altgrad eager: {NEAREST}"].median / x.numel()
    return Section(lines=tuple(lines), claims=tuple(claims), left_out=missing), seconds_a_value


def _claims(title: str, measured: dict[str, Measured], peer_names: set[str]) -> Iterator[Claim]:
    copy = measured["copy"]
    for name, limit in LIMITS.items() if title == "16 M values" else ():
        ratio = measured[f"altgrad eager: {name}"].ratio(copy)[1]
        yield Claim(f"eager, {name}, {title}, to a copy", ratio, limit)
    if peer_names:
        fastest = min(peer_names, key=lambda name: measured[name].median)
        for name in (NEAREST, PLAIN):
            ratio = measured[f"altgrad eager: {name}"].ratio(measured[fastest])[1]
            yield Claim(f"eager, {name}, {title}, to the fastest peer ({fastest})", ratio, 1.0)
    for name in sorted(peer_names - {"the earlier attempt"}) if title == "16 M values" else ():
        ratio = measured[f"altgrad eager: {NEAREST}"].ratio(measured[name])[1]
        yield Claim(f"eager, {NEAREST}, {title}, to {name}", ratio, 0.1)
    if "the earlier attempt" in measured:
        ratio = measured[f"altgrad eager: {NEAREST}"].ratio(measured["the earlier attempt"])[1]
        yield Claim(f"eager, {NEAREST}, {title}, to the earlier attempt", ratio, 0.01)


def format_section(options: Options) -> Section:
    """One table: our ways and the fastest peer that can, over formats, 1 M values."""
    x = torch.randn(1 << (14 if options.quick else 20), generator=torch.Generator().manual_seed(2))
    ways = [f"altgrad eager: {name}" for name in (NEAREST, PLAIN, COUNTED, STOCHASTIC)]
    rows, missing = [], {}
    for name in QUICK_FORMATS if options.quick else FORMATS:
        fmt = parse_format(name)
        own, others, absent = contestants(x, fmt, compiled=options.compiled, only=ways)
        missing |= absent
        others = [way for way in others if "stochastic" not in way.name]
        rounds, seconds = (3, 0.2) if options.quick else (9, 1.0)
        measured = timed(x, [*own, *others], rounds=rounds, seconds_each=seconds)
        copy = measured["copy"]
        cells = [f"{measured[way].ratio(copy)[1]:.1f}" for way in ways]
        rows.append((fmt.name, *cells, *_peer_cells(measured, others, x, fmt)))
    head = ("format", *(way.removeprefix("altgrad ") for way in ways), "fastest peer", "next peers")
    size = "16 K values: no figure here counts" if options.quick else "1 M values"
    lines = [f"### Every format, {size}, times a copy", "", *table(head, rows), ""]
    lines += ["A share in brackets: values off the grid.", ""]
    return Section(lines=tuple(lines), left_out=missing)


def _peer_cells(
    measured: dict[str, Measured], others: list[Way], x: Tensor, fmt: FP8Format
) -> tuple[str, str]:
    said = []
    for way in sorted(others, key=lambda way: measured[way.name].median):
        wrong = disagreement(way, x, fmt)
        ratio = measured[way.name].ratio(measured["copy"])[1]
        said.append(f"{way.name} {ratio:.1f}" + (f" ({wrong:.1%})" if wrong else ""))
    return (said[0] if said else "–"), ("; ".join(said[1:3]) or "–")


def section(options: Options) -> Section:
    """All sizes, then all formats."""
    sizes = {"a quick 64 K values": (1 << 16,)} if options.quick else SIZES
    measured = {title: size_section(title, shape, options) for title, shape in sizes.items()}
    parts = [part for part, _ in measured.values()] + [format_section(options)]
    (first, (_, cost)), *others = measured.items()
    alike = [
        Claim(f"eager, {NEAREST}, cost of a value, {title} to {first}", here / cost, 1.5)
        for title, (_, here) in others
    ]
    left_out: dict[str, str] = {}
    for part in parts:
        left_out |= part.left_out
    return Section(
        lines=("## Rounding", "", *(line for part in parts for line in part.lines)),
        claims=(*(claim for part in parts for claim in part.claims), *alike),
        left_out=left_out,
    )
