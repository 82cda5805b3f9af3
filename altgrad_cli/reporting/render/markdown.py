"""A report as Markdown: what is committed, read on a code host, and verified again.

Its answer, a picture and a table stand open; every section is folded away below them. A number in a sentence
carries its source as the title of its span. A table has one comment above it with the source of each column,
``{}`` standing for the row's label; a verbatim block has one with its own source. A table too long or wide
for a page is a CSV file beside the report, with a link under the same comment in its place.
"""

from __future__ import annotations

import csv
import html
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from altgrad_cli.files import is_regular, write_together
from altgrad_cli.notation import escape_markdown
from altgrad_cli.reporting.blocks.document import (
    SHOWN_COLUMNS,
    SHOWN_ROWS,
    Block,
    Picture,
    Report,
    Section,
    Table,
    Text,
)

HEADER = "<!-- altgrad report; computed from the logs in: {logs} -->"
CELLS, END = "<!-- cells: ", " -->"
VERBATIM = "<!-- verbatim: "
SEPARATOR = " | "
LINK = "The whole table: [{name}]({folder}/{name})."


def to_markdown(report: Report, beside: str | None) -> str:
    """``report`` as Markdown text.

    Args:
        report: what to render.
        beside: folder of pictures and long tables as the Markdown links to it; None leaves the pictures out,
            and keeps every table in the text.
    """
    return _Writer(beside).whole(report)


def tables_beside(report: Report, folder: str) -> dict[str, str]:
    """The CSV files that ``to_markdown`` links to in ``folder``: file name -> text."""
    writer = _Writer(folder)
    writer.whole(report)
    return {name: _csv(table) for name, table in writer.tables.items()}


def write_markdown(report: Report, path: Path, *, pictures: bool = True) -> list[Path]:
    """Write ``report`` to ``path``, pictures and long tables into a folder beside; returns what was written.

    Raises:
        WriteError: something cannot be written; then nothing is.
    """
    from altgrad_cli.reporting.render.pictures import to_png

    # The logs are named as seen from the report, so that both may be moved together.
    logs = tuple(Path(os.path.relpath(log, path.parent)).as_posix() for log in report.logs)
    report = replace(report, logs=logs)
    folder = folder_beside(path)
    beside = folder.name if pictures and is_regular(path) else None
    files: dict[Path, str | bytes] = {path: to_markdown(report, beside)}
    if beside is not None:
        files |= {folder / name: text for name, text in tables_beside(report, beside).items()}
        files |= {folder / f"{figure.key}.png": to_png(figure) for figure in report.figures}
    write_together(files)
    return list(files)


def paths_beside(report: Report, path: Path) -> list[Path]:
    """Where pictures and long tables go; beside a pipe or a device there are none."""
    if not is_regular(path):
        return []
    folder = folder_beside(path)
    names = [f"{figure.key}.png" for figure in report.figures]
    return [folder / name for name in (*names, *tables_beside(report, folder.name))]


def folder_beside(path: Path) -> Path:
    """Where the pictures and long tables of a report at ``path`` lie."""
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-pictures")


def read_csv(text: str) -> list[list[str]]:
    """The rows of a CSV file that ``tables_beside`` made, the header first."""
    return list(csv.reader(io.StringIO(text)))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([table.label_header, *(column.header for column in table.columns)])
    writer.writerows([label, *cells] for label, cells in zip(table.labels, table.cells, strict=True))
    return text.getvalue()


@dataclass(slots=True)
class _Writer:
    """Writes block after block, and keeps the tables that go beside the report."""

    beside: str | None
    tables: dict[str, Table] = field(default_factory=dict)
    """By the name of their file."""

    def whole(self, report: Report) -> str:
        """The whole text."""
        parts = [HEADER.format(logs=", ".join(report.logs))] if report.logs else []
        parts.append(f"# {escape_markdown(report.title)}")
        parts += self._blocks(report.opening, report.title)
        for section in report.sections:
            parts += self._fold(section)
        return "\n\n".join(parts) + "\n"

    def _blocks(self, blocks: Sequence[Block], title: str) -> list[str]:
        parts = []
        for block in blocks:
            parts += self._fold(block) if isinstance(block, Section) else [self._block(block, title)]
        return [part for part in parts if part]

    def _fold(self, section: Section) -> list[str]:
        blocks = self._blocks(section.blocks, section.title)
        opened = f"<details>\n<summary>{html.escape(section.title, quote=False)}</summary>"
        return [opened, *blocks, "</details>"] if blocks else []

    def _block(self, block: Block, title: str) -> str:
        if isinstance(block, Text):
            return block.markdown
        if isinstance(block, Table):
            is_long = len(block.labels) > SHOWN_ROWS or len(block.columns) > SHOWN_COLUMNS
            return _table(block) if self.beside is None or not is_long else self._link(block, title)
        if isinstance(block, Picture):
            if self.beside is None:
                return ""
            alt = re.sub(r"[\[\]]", "", block.figure.title)
            return f"![{alt}]({self.beside}/{block.figure.key}.png)\n\n{block.caption}".rstrip()
        if isinstance(block, Section):
            return ""
        fence = f"```{block.language}\n{block.text}\n```"
        return f"{VERBATIM}{block.source}{END}\n{fence}" if block.source else fence

    def _link(self, table: Table, title: str) -> str:
        """The place of a table that lies beside the report."""
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "table"
        number = 1
        while (name := f"{stem}{f'-{number}' if number > 1 else ''}.csv") in self.tables:
            number += 1
        self.tables[name] = table
        return "\n".join([*_sources(table), LINK.format(name=name, folder=self.beside)])


def _sources(table: Table) -> list[str]:
    """The comment above a table of cells that the logs give."""
    sources = [column.source for column in table.columns]
    return [f"{CELLS}{SEPARATOR.join(sources)}{END}"] if any(sources) else []


def _table(table: Table) -> str:
    """The table with its columns lined up, under the comment that names their sources."""
    header = [table.label_header, *(column.header for column in table.columns)]
    comment = _sources(table)
    escaped = [[escape_markdown(cell) for cell in header]]
    escaped += [
        [_label(label, cited=bool(comment)), *map(escape_markdown, cells)]
        for label, cells in zip(table.labels, table.cells, strict=True)
    ]
    widths = [max(len(row[index]) for row in escaped) for index in range(len(header))]
    left = [True, *(table.has_words(index) for index in range(len(table.columns)))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        ("-" * width if to_left else "-" * (width - 1) + ":")
        for width, to_left in zip(widths, left, strict=True)
    ]
    return "\n".join([*comment, line(escaped[0]), line(rule), *map(line, escaped[1:])])


def _label(label: str, *, cited: bool) -> str:
    """As the table's sources take it, which Markdown shows as code, or as text."""
    if not cited:
        return escape_markdown(label)
    return label if label.isdecimal() else f"`{label}`".replace("|", "\\|")
