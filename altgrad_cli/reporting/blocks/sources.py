"""Where a number comes from, in one line that a reader understands and a program can evaluate again.

    e7m0_uniform: mean(update_transfer)[blocks.0.attn.c_attn]@451-500
    e7m0_uniform: collapse.step
    e7m0_uniform,e7m0_uniform-s43: average recovered_fraction@500
    rule: trained.from

is *runs* (or the name of a group of them) ``:`` an optional word for several runs, a *quantity* with an
optional argument, ``[layer]`` and ``@step`` or ``@first-last``. In Markdown a number of a sentence stands in
a ``<span>`` whose title is its source (hovering shows it), and above a table one comment gives that of each
column.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from altgrad_cli.errors import UsageError

ROW = "{}"
"""Stands in the source of a table's column for the label of the row."""

_SOURCE = re.compile(
    r"(?P<runs>[^:]+): "
    r"(?:(?P<over>average|deviation|difference|paired|halfwidth|interval|lowest|highest|leader|number|common)"
    r"(?: |$))?"
    r"(?:(?P<quantity>[A-Za-z_][\w.]*)(?:\((?P<argument>[^()]+)\))?)?"
    r"(?:\[(?P<layer>[^\[\]]+)\])?(?:@(?P<first>\d+)(?:-(?P<last>\d+))?)?"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of one number."""

    runs: tuple[str, ...]
    """Names of runs; ``rule`` stands for the constants of the definitions."""
    quantity: str
    argument: str | None = None
    """What a quantity like ``mean`` is taken of: a metric's name."""
    layer: str | None = None
    first: int | None = None
    last: int | None = None
    """Steps ``first`` to ``last``, both included; None is the whole run."""
    over: str | None = None
    """How several runs become one: ``average``, ``deviation``, ``difference``, ``lowest``, ``highest``, the
    ``number`` of the runs, or the ``leader``, the run with the highest value; ``paired``, the mean difference
    of the first half of the runs and the second, run by run, and ``halfwidth``, half its 95 % interval;
    ``interval``, half the 95 % interval of the average; ``common``, the value that all of them have."""


def parse_source(text: str) -> Source:
    """The source that ``text`` names; UsageError where it is none."""
    match = _SOURCE.fullmatch(text.strip())
    if match is None or not (match["quantity"] or match["over"]):
        raise UsageError(
            f"not the source of a number: {text!r}",
            allowed="RUN: QUANTITY(METRIC)[LAYER]@FIRST-LAST",
        )
    first = int(match["first"]) if match["first"] else None
    return Source(
        runs=tuple(match["runs"].split(",")),
        quantity=match["quantity"] or "",
        argument=match["argument"],
        layer=match["layer"],
        first=first,
        last=int(match["last"]) if match["last"] else first,
        over=match["over"],
    )


def cited(text: str, source: str) -> str:
    """``text`` in Markdown, carrying its source; what Markdown would read as markup is spelled out."""
    escaped = html.escape(text)
    for character in "*`[":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return f'<span title="{html.escape(source)}">{escaped}</span>'


CITED = re.compile(r'<span title="(?P<source>[^"]*)">(?P<text>[^<]*)</span>')
"""A number with its source, as ``cited`` writes it; both parts are HTML-escaped."""


def without_sources(markdown: str) -> str:
    """``markdown`` with the numbers left and their sources taken away."""
    return CITED.sub(lambda match: re.sub(r"([*`\[])", r"\\\1", html.unescape(match["text"])), markdown)
