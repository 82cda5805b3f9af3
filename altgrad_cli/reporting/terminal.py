"""A report in the terminal, through rich: text, tables and commands; pictures are named, not drawn."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table as RichTable
from rich.text import Text as RichText

from altgrad_cli.reporting.document import Block, Picture, Report, Section, Table, Text, Verbatim
from altgrad_cli.reporting.sources import without_sources

_VERDICT_STYLES = {
    "trained": "green", "degraded": "yellow", "failed": "bold red", "collapsed": "bold red", "nonfinite": "bold red",
}  # fmt: skip


def renderables(report: Report) -> Iterator[RenderableType]:
    """What a rich console prints, in order."""
    yield RichText(report.title, style="bold")
    for section in report.sections:
        blocks = [item for block in section.blocks if (item := _block(block)) is not None]
        if blocks:
            yield RichText()
            yield _heading(section)
            yield from blocks


def _heading(section: Section) -> RenderableType:
    if section.level == 2:
        return Rule(RichText(section.title, style="bold"), align="left", style="dim")
    return RichText(section.title, style="bold")


def _block(block: Block) -> RenderableType | None:
    if isinstance(block, Text):
        return Markdown(without_sources(block.markdown))
    if isinstance(block, Table):
        return _table(block) if block.labels and block.columns else None
    if isinstance(block, Verbatim):
        return Padding(Syntax(block.text, block.language, background_color="default", word_wrap=True), (0, 2))
    if isinstance(block, Picture):
        return None
    return None


def _table(table: Table) -> RichTable:
    rich_table = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    rich_table.add_column(table.label_header, no_wrap=True)
    for index, column in enumerate(table.columns):
        words = any(cells[index][:1].isalpha() for cells in table.cells)
        rich_table.add_column(column.header, justify="left" if words else "right", overflow="fold")
    for label, cells in zip(table.labels, table.cells, strict=True):
        rich_table.add_row(label, *(RichText(cell, style=_VERDICT_STYLES.get(cell, "")) for cell in cells))
    return rich_table
