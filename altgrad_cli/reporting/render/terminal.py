"""A report in the terminal, through rich: text, tables and commands; pictures are named, not drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table as RichTable
from rich.text import Text as RichText

from altgrad_cli.reporting.blocks.document import Block, Report, Section, Table, Text, Verbatim
from altgrad_cli.reporting.blocks.sources import without_sources

_WIDEST = 40
"""Characters beyond which a value may be broken over lines."""
_VERDICT_STYLES = {
    "trained": "green", "degraded": "yellow", "failed": "bold red", "collapsed": "bold red", "nonfinite":
    "bold red",
}  # fmt: skip


def renderables(report: Report) -> Iterator[RenderableType]:
    """What a rich console prints, in order."""
    yield RichText(report.title, style="bold")
    if report.opening:
        yield RichText()
    for block in (*report.opening, *report.sections):
        yield from _blocks(block)


def _blocks(block: Block) -> Iterator[RenderableType]:
    """``block``, or the heading and the blocks of a section in which there is anything to show."""
    if not isinstance(block, Section):
        item = _block(block)
        yield from () if item is None else (item,)
        return
    items = [item for each in block.blocks for item in _blocks(each)]
    if items:
        yield RichText()
        yield Rule(RichText(block.title, style="bold"), align="left", style="dim")
        yield from items


def _block(block: Block) -> RenderableType | None:
    if isinstance(block, Text):
        return Markdown(without_sources(block.markdown))
    if isinstance(block, Table):
        return _FittedTable(block)
    if isinstance(block, Verbatim):
        return Padding(Syntax(block.text, block.language, background_color="default", word_wrap=True), (0, 2))
    return None


@dataclass(frozen=True, slots=True)
class _FittedTable:
    """A table that is continued below, with its labels, where the terminal is too narrow for all columns."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [self._width(index) for index in range(len(self.table.columns))]
        label_width = max(len(self.table.label_header), *(len(label) for label in self.table.labels))
        columns: list[int] = []
        used = label_width
        for index, width in enumerate(widths):
            if columns and used + 1 + width > options.max_width:
                yield self._part(columns, widths)
                columns, used = [], label_width
            columns.append(index)
            used += 1 + width
        yield self._part(columns, widths)

    def _width(self, index: int) -> int:
        # A header may wrap at its spaces; a value is not broken.
        words = self.table.columns[index].header.split()
        widest = _WIDEST if len(self.table.columns) > 1 else None  # a column alone has all the room
        return max(len(word) for word in [*words, *(row[index][:widest] for row in self.table.cells)])

    def _part(self, columns: list[int], widths: list[int]) -> RichTable:
        table = self.table
        named = bool(table.label_header or any(table.columns[index].header for index in columns))
        part = RichTable(
            box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0), show_header=named
        )
        part.add_column(table.label_header, overflow="fold")
        for index in columns:
            part.add_column(
                textwrap.fill(table.columns[index].header, widths[index], break_on_hyphens=False),
                justify="left" if table.has_words(index) else "right",
                max_width=widths[index],
                overflow="fold",
            )
        for label, cells in zip(table.labels, table.cells, strict=True):
            styled = (
                RichText(cells[index], style=_VERDICT_STYLES.get(cells[index], "")) for index in columns
            )
            part.add_row(label, *styled)
        return part
