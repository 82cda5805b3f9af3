"""The gaps of a grid, binade by binade, as a table with bars for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from altgrad_cli.formats.notation import exact_text

_MAX_ROWS = 18
_BAR_WIDTH = 14


def gap_table(binades: Sequence[Mapping[str, Any]], bar: str) -> Table:
    """One row a binade, the largest first; long stretches of equal relative gap are told in one row.

    The bars are logarithmic, a character per equal factor: the gap from the smallest of the format to its
    largest, the relative gap from 2^-16 to 1.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    for heading in ("  from", "values", "gap", "", "gap / x", ""):
        table.add_column(justify="right" if heading in ("values", "gap", "gap / x") else "left", no_wrap=True)
    table.add_row("  from", "values", "gap", "", "gap / x", "", style="dim")
    gaps = [math.log2(row["gap"]) for row in binades]
    low, high = min(gaps), max(gaps)
    for row in reversed(_condensed(binades)):
        if row is None:
            table.add_row("  ...", "", "", "", "", "")
            continue
        place = (math.log2(row["gap"]) - low) / (high - low) if high > low else 1.0
        relative = 1 + math.log2(row["relative_gap"]) / 16
        table.add_row(
            f"  {_power(row['exponent'])}",
            f"{row['values']:,}",
            _short(row["gap"]),
            _bar(place, bar),
            f"{100 * row['relative_gap']:.3g} %",
            _bar(relative, bar),
        )
    return table


def _condensed(binades: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """The binades, or their two ends and the border between subnormal and normal; None for those left out."""
    if len(binades) <= _MAX_ROWS:
        return list(binades)
    border = next((i for i, row in enumerate(binades) if row["normal"]), len(binades))
    kept = {*range(4), *range(border - 3, border + 4), *range(len(binades) - 4, len(binades))}
    rows: list[Mapping[str, Any] | None] = []
    for i, row in enumerate(binades):
        if i in kept:
            rows.append(row)
        elif rows[-1] is not None:
            rows.append(None)
    return rows


def _bar(share: float, bar: str) -> str:
    return bar * max(1, round(share * _BAR_WIDTH))


def _power(exponent: int) -> str:
    return f"2^{exponent}"


def _short(gap: float) -> str:
    text = exact_text(gap)
    return text if len(text) <= 11 else f"{gap:.4g}"
