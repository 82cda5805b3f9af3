"""A report as Markdown: what is committed, read on a code host, and verified again.

A number in a sentence carries its source as the title of its span. A table has one comment above it with the
source of each column, ``{}`` standing for the row's label; a verbatim block has one with its own source.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from altgrad_cli.files import is_regular, write_together
from altgrad_cli.notation import escape_markdown
from altgrad_cli.reporting.blocks.document import Block, Picture, Report, Table, Text

HEADER = "<!-- altgrad report; computed from the logs in: {logs} -->"
CELLS, END = "<!-- cells: ", " -->"
VERBATIM = "<!-- verbatim: "
SEPARATOR = " | "


def to_markdown(report: Report, pictures: str | None) -> str:
    """``report`` as Markdown text.

    Args:
        report: what to render.
        pictures: folder of the PNGs as the Markdown links to it; None leaves the pictures out.
    """
    parts = [HEADER.format(logs=", ".join(report.logs))] if report.logs else []
    parts.append(f"# {escape_markdown(report.title)}")
    for section in report.sections:
        blocks = [text for block in section.blocks if (text := _block(block, pictures))]
        if blocks:
            parts += [f"## {section.title}", *blocks]
    return "\n\n".join(parts) + "\n"


def write_markdown(report: Report, path: Path, *, pictures: bool = True) -> list[Path]:
    """Write ``report`` to ``path`` and its pictures into a folder beside it; returns what was written.

    Raises:
        WriteError: something cannot be written; then nothing is.
    """
    from altgrad_cli.reporting.render.pictures import to_png

    # The logs are named as seen from the report, so that both may be moved together.
    logs = tuple(Path(os.path.relpath(log, path.parent)).as_posix() for log in report.logs)
    report = replace(report, logs=logs)
    drawn = picture_paths(report, path) if pictures else {}
    folder = _picture_folder(path).name if drawn else None
    files: dict[Path, str | bytes] = {path: to_markdown(report, folder)}
    files |= {drawn[figure.key]: to_png(figure) for figure in report.figures if figure.key in drawn}
    write_together(files)
    return list(files)


def picture_paths(report: Report, path: Path) -> dict[str, Path]:
    """Where each figure's picture goes, by the figure's key; beside a pipe or a device there are none."""
    if not is_regular(path):
        return {}
    return {figure.key: _picture_folder(path) / f"{figure.key}.png" for figure in report.figures}


def _picture_folder(path: Path) -> Path:
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-pictures")


def _block(block: Block, pictures: str | None) -> str:
    if isinstance(block, Text):
        return block.markdown
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        if pictures is None:
            return ""
        return f"![{block.figure.title}]({pictures}/{block.figure.key}.png)\n\n{block.caption}".rstrip()
    fence = f"```{block.language}\n{block.text}\n```"
    return f"{VERBATIM}{block.source}{END}\n{fence}" if block.source else fence


def _table(table: Table) -> str:
    """The table with its columns lined up, under the comment that names their sources."""
    header = [table.label_header, *(column.header for column in table.columns)]
    cited = any(column.source for column in table.columns)
    escaped = [[escape_markdown(cell) for cell in header]]
    escaped += [
        [_label(label, cited=cited), *map(escape_markdown, cells)]
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
    sources = SEPARATOR.join(column.source for column in table.columns)
    comment = [f"{CELLS}{sources}{END}"] if cited else []
    return "\n".join([*comment, line(escaped[0]), line(rule), *map(line, escaped[1:])])


def _label(label: str, *, cited: bool) -> str:
    """As the table's sources take it, which Markdown shows as code, or as text."""
    if not cited:
        return escape_markdown(label)
    return label if label.isdecimal() else f"`{label}`".replace("|", "\\|")
