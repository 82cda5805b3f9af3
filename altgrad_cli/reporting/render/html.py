"""A report as one HTML file that opens anywhere and asks nothing of any server.

Style, script, pictures and data are inlined; the page's own security policy forbids every request. Hovering
over a number shows where it comes from, and over a picture what stands there.
"""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt

from altgrad_cli import __version__
from altgrad_cli.files import write_whole
from altgrad_cli.reporting.blocks.document import Block, Picture, Report, Section, Table, Text
from altgrad_cli.reporting.blocks.sources import ROW
from altgrad_cli.reporting.render.hover import Hover

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)
_MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
_VERDICTS = ("trained", "degraded", "failed", "collapsed", "completed", "stall_collapse", "nonfinite")


def to_html(report: Report) -> str:
    """The whole page."""
    hovers: dict[str, Hover] = {}
    opening = "\n".join(_block(block, hovers) for block in report.opening)
    body = "\n".join(_section(section, hovers) for section in report.sections)
    contents = "\n".join(
        f'<li><a href="#{_anchor(section.title)}">{html.escape(section.title)}</a></li>'
        for section in report.sections
    )
    # "</" may not occur inside a script element.
    data = json.dumps(hovers, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="altgrad {__version__}">
<link rel="icon" href="data:,">
<title>{html.escape(report.title)}</title>
<style>
{_asset("page.css")}
</style>
</head>
<body>
<nav><p class="brand">altgrad</p><ol>
{contents}
</ol></nav>
<main>
<h1>{html.escape(report.title)}</h1>
<p class="lead">Computed from the logs in {html.escape(", ".join(report.logs))}.
Hover over a number to see where it comes from.</p>
{opening}
{body}
</main>
<script>
const hovers = {data};
{_asset("page.js")}
</script>
</body>
</html>
"""


def write_html(report: Report, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_whole(path, to_html(report))


def _asset(name: str) -> str:
    return (files("altgrad_cli.reporting.render") / "assets" / name).read_text(encoding="utf-8").rstrip()


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section, hovers: dict[str, Hover], level: int = 2) -> str:
    blocks = "\n".join(_block(block, hovers, level) for block in section.blocks)
    heading = f"<h{level}>{html.escape(section.title)}</h{level}>"
    return f'<section id="{_anchor(section.title)}">\n{heading}\n{blocks}\n</section>'


def _block(block: Block, hovers: dict[str, Hover], level: int = 2) -> str:
    if isinstance(block, Section):
        return _section(block, hovers, level + 1)
    if isinstance(block, Text):
        return _MARKDOWN.render(block.markdown).strip()
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block, hovers)
    text = f"<pre><code>{html.escape(block.text)}</code></pre>"
    lines = block.text.count("\n") + 1
    return text if lines < 13 else f"<details><summary>{lines} lines</summary>{text}</details>"


def _picture(block: Picture, hovers: dict[str, Hover]) -> str:
    """The drawing with its caption; what the pointer finds in it goes into ``hovers``."""
    from altgrad_cli.reporting.render.pictures import to_svg

    figure = block.figure
    drawing, hovers[figure.key] = to_svg(figure)
    key, title = html.escape(figure.key), html.escape(figure.title)
    return (
        f'<figure><div class="scroll"><div class="plot" data-figure="{key}" role="img" aria-label="{title}">'
        f"{drawing}</div></div><figcaption>{_MARKDOWN.renderInline(block.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    words = [table.has_words(index) for index in range(len(table.columns))]
    head = "".join(
        f"<th{_cell_class('', word)}>{html.escape(column.header)}</th>"
        for column, word in zip(table.columns, words, strict=True)
    )
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th>"
        + "".join(
            f'<td title="{html.escape(column.source.replace(ROW, label))}"{_cell_class(cell, word)}>'
            f"{html.escape(cell)}</td>"
            for cell, column, word in zip(cells, table.columns, words, strict=True)
        )
        + "</tr>"
        for label, cells in zip(table.labels, table.cells, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>{html.escape(table.label_header)}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell_class(cell: str, word: bool) -> str:
    """Columns of words are set to the left, and verdicts have their colours."""
    names = " ".join((["word"] if word else []) + ([cell] if cell in _VERDICTS else []))
    return f' class="{names}"' if names else ""
