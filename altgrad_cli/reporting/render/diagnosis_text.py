"""Sections of a diagnosis as terminal output and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from altgrad_cli.reporting.pages.diagnosis.details import Section, Table


def _one_line(text: str) -> str:
    """``text`` without anything that could drive a terminal: names and texts come out of a file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Write every section to ``console``; an empty header is a list of labelled lines."""
    for section in sections:
        console.print(Text(_one_line(section.title), style="bold"))
        for line in section.lines:
            console.print(Text(_one_line(line)), soft_wrap=not console.is_terminal)
        if section.table is not None:
            console.print(_rich_table(section.table))
        console.print()


def _rich_table(table: Table) -> RichTable:
    labelled = not any(table.header)
    grid = RichTable.grid(padding=(0, 2, 0, 0)) if labelled else RichTable(box=None, padding=(0, 1, 0, 0))
    for number, name in enumerate(table.header):
        style = "bold" if labelled and number == 0 else ""
        grid.add_column(_one_line(name), no_wrap=labelled and number == 0, style=style, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(_one_line(cell)) for cell in row))
    return grid


def to_markdown(verdict: Section, sections: Iterable[Section]) -> str:
    """The whole diagnosis as one Markdown document."""
    parts = [f"# {_escape(verdict.title)}", ""]
    if verdict.table is not None:
        for label, text in verdict.table.rows:
            parts.append(f"- **{_escape(label)}** {_escape(text)}" if label else f"  - {_escape(text)}")
        parts.append("")
    for section in sections:
        parts += [f"## {_escape(section.title)}", ""]
        parts += [f"- {_escape(line)}" for line in section.lines]
        if section.table is not None:
            if section.lines:
                parts.append("")
            parts.append(_markdown_row(section.table.header))
            parts.append(_markdown_row(["---"] * len(section.table.header)))
            parts += [_markdown_row([_escape(cell) for cell in row]) for row in section.table.rows]
        parts.append("")
    return "\n".join(parts)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    line = _one_line(text)
    for character in "\\|`*_<>[]":
        line = line.replace(character, f"\\{character}")
    return line
