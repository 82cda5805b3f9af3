"""How a value is written for a reader, the same in every table, sentence and picture.

Missing is a dash, never 0. A share just below 1 never reads as 1, and NaN and infinity are words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

MISSING = "–"
"""Stands for a value that was not measured."""

LOSS_NAMES = frozenset({"loss", "validation_loss", "validation_loss_master", "perplexity", "loss_gap"})
"""Quantities written with three decimals, so that columns of losses line up."""


def format_value(value: object, name: str = "") -> str:
    """``value`` of the quantity ``name`` as text.

    Floats have three significant digits (losses three decimals), shares above 0.99 as many as tell them
    from 1, integers all their digits in groups of three; None is a dash and other things are their ``str``.
    """
    if hasattr(value, "item"):
        value = value.item()  # a scalar of numpy, which is not loaded for this
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _format_float(value, fixed=name in LOSS_NAMES)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return one_line(str(value))


def decimals(value: float | None, digits: int) -> str:
    """``value`` with so many decimals; a dash for what was not measured."""
    return MISSING if value is None else f"{value:.{digits}f}"


def one_line(text: str) -> str:
    """``text`` with control characters spelled out: a name out of a file cannot drive a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """``one_line`` of every line."""
    return "\n".join(map(one_line, text.split("\n")))


def escape_markdown(text: str) -> str:
    """``text`` on one line and taken literally by Markdown: no link, no element, no column of a table."""
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", one_line(text))


def unescape_markdown(text: str) -> str:
    """What ``escape_markdown`` was given."""
    return re.sub(r"\\([\\|`*<>\[\]])", r"\1", text)


def _format_float(value: float, *, fixed: bool) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if fixed and magnitude < 1000:
        return f"{value:.3f}"
    if 0.99 <= magnitude < 1:
        # 0.99964 must not be rounded to 1: keep two digits of the distance from 1.
        digits = 1 - math.floor(math.log10(1 - magnitude))
        return _trim(f"{value:.{digits}f}")
    if 1e-3 <= magnitude < 1e5:
        return _trim(f"{value:.{max(0, 2 - math.floor(math.log10(magnitude)))}f}")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{_trim(mantissa)}e{int(exponent)}"


def _trim(text: str) -> str:
    """Without zeros that say nothing after the decimal point."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def short_layer(name: str) -> str:
    """A layer's name as an axis label: ``blocks.0.attn.c_attn`` is ``0 attn.c_attn``."""
    parts = name.split(".")
    return f"{parts[1]} {'.'.join(parts[2:])}" if parts[0] == "blocks" and len(parts) > 2 else name


def layer_type(name: str) -> str:
    """The kind of a layer, without its block: ``blocks.0.attn.c_attn`` is ``attn.c_attn``."""
    parts = name.split(".")
    return ".".join(parts[2:]) if parts[0] == "blocks" and len(parts) > 2 else name
