"""Formats as tables: every code, two formats side by side, and what one does to a file's tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from altgrad_cli.formats import FP8Format
from altgrad_cli.formats.notation import exact_text
from altgrad_cli.reporting.pages.format.sheet import number, percent

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
        exact = _fraction_text(format, code) if math.isfinite(value) else "–"
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


def comparison_table(first: Mapping[str, Any], second: Mapping[str, Any]) -> Table:
    """Two formats' facts side by side, row by row, and what their grids share."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_column()
    table.add_row("", Text(first["name"], "bold"), Text(second["name"], "bold"))
    for label, value in _COMPARED:
        table.add_row(label, value(first), value(second))
    for index, weight in enumerate(_stored_rows(first)):
        pair = [_stored_rows(facts)[index] for facts in (first, second)]
        table.add_row(f"moves {weight['weight']:g} up, down", *map(_half_gap_words, pair))
    shared = _finite_values(first) & _finite_values(second)
    table.add_row(
        "values the other has",
        *(f"{len(shared)} of {len(_finite_values(facts))}" for facts in (first, second)),
    )
    return table


def _stored_rows(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    scale = facts["predicted_stall_for"]["scale"]
    return [row for row in facts["half_gaps"] if row["scale"] == scale]


def _half_gap_words(row: Mapping[str, Any]) -> str:
    up = "never (at max)" if math.isinf(row["up"]) else f"> {number(row['up'])}"
    return f"{up}, > {number(row['down'])}"


def _finite_values(facts: Mapping[str, Any]) -> frozenset[float]:
    return frozenset(value for value in facts["values"] if math.isfinite(value))


_COMPARED = (
    ("bits", lambda f: f"{f['width']} (E{f['exponent_bits']} M{f['mantissa_bits']})"),
    ("bias", lambda f: "– (fixed point)" if f["bias"] is None else str(f["bias"])),
    ("inf, nan, -0", lambda f: ", ".join(_yes(f[key]) for key in ("has_inf", "has_nan", "negative_zero"))),
    ("max", lambda f: number(f["max"], 6)),
    ("overflow from", lambda f: number(f["overflow_from"], 9)),
    ("smallest normal", lambda f: number(f["min_normal"], 6)),
    ("smallest positive", lambda f: number(f["smallest_positive"], 6)),
    ("binades", lambda f: str(len(f["binades"]))),
    ("dynamic range", lambda f: f"{f['octaves']:.2f} octaves"),
    ("worst relative error", lambda f: percent(f["relative_error"]["worst"])),
    ("mean relative error", lambda f: percent(f["relative_error"]["mean"])),
    ("SQNR of N(0, 1)", lambda f: f"{f['gaussian_sqnr_db']:.2f} dB"),
    ("at the best scale", lambda f: f"{f['gaussian_best_scale']:.4g}"),
    ("predicted stall", lambda f: percent(f["predicted_stall"])),
    ("at the first step", lambda f: percent(f["predicted_stall_first_step"])),
    ("at the stored scale", lambda f: number(f["predicted_stall_for"]["scale"])),
    ("clip threshold", lambda f: f"{f['clip_threshold']:.4g}"),
    ("fallback", lambda f: f["fallback"] or "–"),
)
"""Row label -> how it reads off one format's facts."""


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def fit_table(fits: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One row a matrix, in the file's order; the shape where ``width`` has room for it."""
    with_shape = width >= _SHAPE_FROM_WIDTH
    nonfinite = any(fit["nonfinite"] for fit in fits)
    suffix = ".weight" if all(fit["name"].endswith(".weight") for fit in fits) else ""
    headings = [
        "layer",
        *(["shape"] if with_shape else []),
        "scale",
        "over",
        "under",
        "SQNR",
        "codes",
        "stall",
    ]
    headings += ["inf, nan"] if nonfinite else []
    table = Table.grid(padding=(0, 1 if width < _SHAPE_FROM_WIDTH else 2, 0, 0))
    for heading in headings:
        left = heading == "layer"
        table.add_column(justify="left" if left else "right", no_wrap=not left, overflow="fold")
    table.add_row(*headings, style="dim")
    for fit in fits:
        cells = [fit["name"].removesuffix(suffix)]
        cells += ["x".join(map(str, fit["shape"]))] if with_shape else []
        cells += [
            "–" if fit["scale"] is None else number(fit["scale"]),
            _share(fit["overflow"]),
            _share(fit["underflow"]),
            "–" if fit["sqnr_db"] is None else f"{fit['sqnr_db']:.1f} dB",
            _share(fit["codes_used"]),
            _share(fit["predicted_stall"]),
        ]
        cells += [f"{fit['nonfinite']:,}"] if nonfinite else []
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)
