"""A report before it is rendered: sections of blocks, the same for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from altgrad_cli.metrics.catalogue import heading_of
from altgrad_cli.notation import MISSING, escape_markdown, format_value
from altgrad_cli.reporting.blocks.figures import Figure
from altgrad_cli.reporting.blocks.sources import ROW
from altgrad_cli.reporting.evidence.runs import Evidence


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


def measured(source: str) -> TableColumn:
    """The column of a metric's values, under the heading that its ``MetricSpec`` gives it."""
    return TableColumn(heading_of(source.partition("(")[2].partition(")")[0]), source)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells that each come from one source: the column's, filled with the row's label."""

    label_header: str
    labels: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    cells: tuple[tuple[str, ...], ...]
    """Printed values, one tuple a row."""


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


Block = Text | Table | Picture | Verbatim


@dataclass(frozen=True, slots=True)
class Section:
    """A heading (``level`` 2 or 3) and what stands under it."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 2


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]
    logs: tuple[str, ...] = ()
    """Folders the report was computed from."""

    @property
    def figures(self) -> list[Figure]:
        """All pictures, in order."""
        return [
            block.figure
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Picture)
        ]


def make_table(
    evidence: Evidence, label_header: str, labels: Iterable[object], columns: Sequence[TableColumn]
) -> Table:
    """The table of ``columns`` for the rows ``labels``; columns without a single value are left out."""
    rows = [str(label) for label in labels]
    texts = [[evidence.text(column.source.replace(ROW, label)) for label in rows] for column in columns]
    kept = [(column, text) for column, text in zip(columns, texts, strict=True) if set(text) - {MISSING}]
    return Table(
        label_header,
        tuple(rows),
        tuple(column for column, _ in kept),
        tuple(tuple(text[row] for _, text in kept) for row in range(len(rows))),
    )


def bullets(lines: Iterable[str]) -> Text:
    """A list of ``lines`` as they are, whatever they hold."""
    return Text("\n".join(f"- {escape_markdown(line)}" for line in lines))


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """The table of values that no log gives, less the columns without one; the first names its row."""
    written = [
        [format_value(value, header) for header, value in zip(headers, row, strict=True)] for row in rows
    ]
    kept = [n for n in range(1, len(headers)) if {row[n] for row in written} - {"", MISSING}]
    return Table(
        headers[0],
        tuple(row[0] for row in written),
        tuple(TableColumn(headers[n]) for n in kept),
        tuple(tuple(row[n] for n in kept) for row in written),
    )
