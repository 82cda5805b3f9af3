"""A report as plain values: every number with its source, for programs."""

from __future__ import annotations

import html

from altgrad_cli.reporting.blocks.document import Block, Picture, Report, Table, Text
from altgrad_cli.reporting.blocks.sources import CITED, ROW, without_sources


def to_json(report: Report) -> dict[str, object]:
    """Title, logs, and for each section its text, tables and cited values."""
    return {
        "title": report.title,
        "logs": list(report.logs),
        "sections": [
            {
                "title": section.title,
                "level": 2,
                "blocks": [_block(block) for block in section.blocks],
            }
            for section in report.sections
        ],
    }


def _block(block: Block) -> dict[str, object]:
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
