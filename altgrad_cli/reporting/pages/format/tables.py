"""Formats as tables: every code, two formats side by side, and what one does to a file's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.exact_text import exact_text
from altgrad_cli.notation import MISSING
from altgrad_cli.reporting.pages.format.facts import FormatFacts
from altgrad_cli.reporting.pages.format.sheet import headed_grid, number, percent, up_words
from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK

if TYPE_CHECKING:
    from altgrad_cli.reporting.pages.format.fit import TensorFit  # imports torch

_SHAPE_FROM_WIDTH = 110


def code_lines(format: FP8Format) -> Iterator[str]:
    """One line a code: the code, its bits as sign, exponent and mantissa, the value, the exact fraction."""
    digits = (format.width + 3) // 4
    values = format.values()
    decimals = [exact_text(v) if not math.isfinite(v) or v == 0 else repr(v) for v in values]
    decimal_width = max(map(len, decimals))
    bits_width = len(_bits(format, 0))
    yield f"{'code':<{digits + 2}}  {'bits':<{bits_width}}  {'value':>{decimal_width}}  fraction"
    for code, (value, decimal) in enumerate(zip(values, decimals, strict=True)):
        exact = _fraction_text(format, code) if math.isfinite(value) else MISSING
        yield f"0x{code:0{digits}x}  {_bits(format, code)}  {decimal:>{decimal_width}}  {exact}"


def _bits(format: FP8Format, code: int) -> str:
    text = f"{code:0{format.width}b}"
    fields = (text[:1], text[1 : 1 + format.exponent_bits], text[1 + format.exponent_bits :])
    return " ".join(field for field in fields if field)


def _fraction_text(format: FP8Format, code: int) -> str:
    fraction = format.to_fraction(code)
    plain = str(fraction)
    # 2^-62 is exact, and readable; its denominator in digits is only exact.
    return plain if len(plain) <= 12 else exact_text(float(fraction))


def comparison_table(first: FormatFacts, second: FormatFacts) -> Table:
    """Two formats' facts side by side, row by row, and what their grids share."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_column()
    pair = (first, second)
    table.add_row("", *(Text(facts.format.name, "bold") for facts in pair))
    for label, value in _COMPARED.items():
        table.add_row(label, *map(value, pair))
    for weight in first.stored_half_gaps:
        both = [facts.stored_half_gaps[weight] for facts in pair]
        words = [f"{up_words(gaps.up, '> ')}, > {number(gaps.down)}" for gaps in both]
        table.add_row(f"moves {weight:g} up, down", *words)
    values = [frozenset(filter(math.isfinite, facts.format.values())) for facts in pair]
    shared = len(values[0] & values[1])
    table.add_row("values the other has", *(f"{shared} of {len(each)}" for each in values))
    return table


def _has_specials(facts: FormatFacts) -> str:
    format = facts.format
    flags = (format.has_inf, format.has_nan, format.negative_zero)
    return ", ".join("yes" if flag else "no" for flag in flags)


_COMPARED: dict[str, Callable[[FormatFacts], str]] = {
    "bits": lambda f: f"{f.format.width} (E{f.format.exponent_bits} M{f.format.mantissa_bits})",
    "bias": lambda f: f"{MISSING} (fixed point)" if f.bias is None else str(f.bias),
    "inf, nan, -0": _has_specials,
    "max": lambda f: number(f.format.max_representable_value, 6),
    "overflow from": lambda f: number(f.format.overflow_threshold, 9),
    "smallest normal": lambda f: number(f.format.min_normal, 6),
    "smallest positive": lambda f: number(f.format.smallest_positive, 6),
    "binades": lambda f: str(len(f.binades)),
    "dynamic range": lambda f: f"{f.octaves:.2f} octaves",
    "worst relative error": lambda f: percent(f.error.worst),
    "mean relative error": lambda f: percent(f.error.mean),
    "SQNR of N(0, 1)": lambda f: f"{f.accuracy.sqnr_db:.2f} dB",
    "at the best scale": lambda f: f"{f.accuracy.scale:.4g}",
    "predicted stall": lambda f: percent(f.stall.long_run),
    "at the first step": lambda f: percent(f.stall.first_step),
    "at the stored scale": lambda f: number(f.stall.scale),
    "clip threshold": lambda f: f"{f.clip_threshold:.4g}",
    "fallback": lambda f: FORMAT_FALLBACK.get(f.format.name) or MISSING,
}
"""Row label -> how it reads off one format's facts."""


def fit_table(fits: Sequence[TensorFit], width: int) -> Table:
    """One row a matrix, in the file's order; the shape where ``width`` has room for it."""
    with_shape = width >= _SHAPE_FROM_WIDTH
    suffix = ".weight" if all(fit.name.endswith(".weight") for fit in fits) else ""
    columns: dict[str, Callable[[TensorFit], str]] = {"layer": lambda fit: fit.name.removesuffix(suffix)}
    if with_shape:
        columns["shape"] = lambda fit: "x".join(map(str, fit.shape))
    columns |= {
        "scale": lambda fit: number(fit.scale),
        "over": lambda fit: percent(fit.overflow),
        "under": lambda fit: percent(fit.underflow),
        "SQNR": lambda fit: MISSING if fit.sqnr_db is None else f"{fit.sqnr_db:.1f} dB",
        "codes": lambda fit: percent(fit.codes_used),
        "stall": lambda fit: percent(fit.predicted_stall),
    }
    if any(fit.nonfinite for fit in fits):
        columns["inf, nan"] = lambda fit: f"{fit.nonfinite:,}"
    table = headed_grid(list(columns), padding=2 if with_shape else 1)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for fit in fits:
        table.add_row(*(Text(value(fit)) for value in columns.values()))
    return table
