"""A report before it is rendered: sections of blocks, the same for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from altgrad_cli.errors import UsageError
from altgrad_cli.notation import MISSING, escape_markdown, format_value
from altgrad_cli.reporting.blocks.figures import Figure

SHOWN_ROWS = 12
SHOWN_COLUMNS = 9
"""Rows and columns up to which a table is read on a page; one that has more is looked up."""


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs or a list, in Markdown; every number in it is cited (``Evidence.cite``)."""

    markdown: str


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column: its header, and the source of its cells with ``{}`` for the row's label."""

    header: str
    source: str = ""
    """Empty where no log gives the cells."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells that each come from one source: the column's, filled with the row's label. Never empty."""

    label_header: str
    labels: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    cells: tuple[tuple[str, ...], ...]
    """Printed values, one tuple a row."""

    def has_words(self, column: int) -> bool:
        """Whether a column holds words, which are set to the left, and not numbers."""
        return any(row[column][:1].isalpha() and row[column] not in ("NaN", "inf") for row in self.cells)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with its caption in Markdown."""

    figure: Figure
    caption: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text as it is: a configuration, commands. ``source`` names it where it can be computed again."""

    text: str
    language: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, sections in their turn too."""

    title: str
    blocks: tuple[Block, ...]


Block = Text | Table | Picture | Verbatim | Section


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report: what all readers see, then what the curious open."""

    title: str
    sections: tuple[Section, ...]
    logs: tuple[str, ...] = ()
    """Folders the report was computed from."""
    opening: tuple[Block, ...] = ()
    """The answer in a sentence or few, one picture, one table; it has no heading."""

    def only(self, beginnings: Sequence[str]) -> Report:
        """The sections whose titles begin so, whatever the case; the whole report for no beginning.

        Raises:
            UsageError: a beginning that no title has.
        """
        titles = [section.title for section in self.sections]
        for beginning in beginnings:
            if not any(title.lower().startswith(beginning.lower()) for title in titles):
                raise UsageError(
                    f"no section begins with {beginning!r}", where="--section", allowed="; ".join(titles)
                )
        if not beginnings:
            return self
        wanted = tuple(map(str.lower, beginnings))
        kept = tuple(section for section in self.sections if section.title.lower().startswith(wanted))
        return replace(self, sections=kept, opening=())

    @property
    def figures(self) -> list[Figure]:
        """All pictures, in order."""
        blocks = _flat((*self.opening, *self.sections))
        return [block.figure for block in blocks if isinstance(block, Picture)]


def _flat(blocks: Iterable[Block]) -> Iterator[Block]:
    """``blocks`` with those of sections in the place of the sections."""
    for block in blocks:
        if isinstance(block, Section):
            yield from _flat(block.blocks)
        else:
            yield block


def section(title: str, *blocks: Block | None) -> Section | None:
    """What there is of ``blocks`` under a heading; None where that is nothing."""
    present = tuple(block for block in blocks if block is not None)
    return Section(title, present) if present else None


def picture(figure: Figure | None, caption: str = "") -> Picture | None:
    """``figure``, where there was something to draw, with its caption in Markdown."""
    return Picture(figure, caption) if figure else None


def listed(lines: Iterable[str]) -> Text | None:
    """A list of ``lines`` in Markdown; None without any."""
    return Text(text) if (text := "\n".join(f"- {line}" for line in lines)) else None


def bullets(lines: Iterable[str]) -> Text | None:
    """A list of ``lines`` as they are, whatever they hold."""
    return listed(map(escape_markdown, lines))


def table_of(
    label_header: str,
    labels: Sequence[str],
    columns: Sequence[TableColumn],
    written: Sequence[Sequence[str]],
) -> Table | None:
    """The table of ``written``, column by column, less those without a single value; None without any."""
    kept = [pair for pair in zip(columns, written, strict=True) if set(pair[1]) - {"", MISSING}]
    if not kept:
        return None
    cells = tuple(zip(*(texts for _, texts in kept), strict=True))
    return Table(label_header, tuple(labels), tuple(column for column, _ in kept), cells)


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Table | None:
    """The table of values that no log gives; the first of a row names it."""
    written = [
        [format_value(value, header) for header, value in zip(headers, row, strict=True)] for row in rows
    ]
    if not written:
        return None
    labels, *columns = zip(*written, strict=True)
    return table_of(headers[0], labels, [TableColumn(header) for header in headers[1:]], columns)
