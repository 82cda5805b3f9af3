"""A report as plain values: every number with its source, for programs."""

from __future__ import annotations

import html

from altgrad_cli.reporting.blocks.document import Block, Picture, Report, Section, Table, Text
from altgrad_cli.reporting.blocks.sources import CITED, ROW, without_sources


def to_json(report: Report) -> dict[str, object]:
    """Title, logs, and the text, tables and cited values of the opening and of each section."""
    return {
        "title": report.title,
        "logs": list(report.logs),
        "opening": [_block(block) for block in report.opening],
        "sections": [_section(section) for section in report.sections],
    }


def _section(section: Section, level: int = 2) -> dict[str, object]:
    return {
        "title": section.title,
        "level": level,
        "blocks": [_block(block, level) for block in section.blocks],
    }


def _block(block: Block, level: int = 2) -> dict[str, object]:
    if isinstance(block, Section):
        return {"kind": "section", **_section(block, level + 1)}
    if isinstance(block, Text):
        return {
            "kind": "text",
            "text": without_sources(block.markdown),
            "values": [
                {"value": html.unescape(match["text"]), "source": html.unescape(match["source"])}
                for match in CITED.finditer(block.markdown)
            ],
        }
    if isinstance(block, Table):
        return {
            "kind": "table",
            "columns": [block.label_header, *(column.header for column in block.columns)],
            "sources": [column.source for column in block.columns],
            "row": ROW,
            "rows": [[label, *cells] for label, cells in zip(block.labels, block.cells, strict=True)],
        }
    if isinstance(block, Picture):
        return {"kind": "picture", "key": block.figure.key, "title": block.figure.title}
    return {"kind": "verbatim", "language": block.language, "text": block.text}
