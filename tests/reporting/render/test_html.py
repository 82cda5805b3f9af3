"""The page opens offline: one file, plots drawn, nothing on the console, nothing asked of anyone."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from altgrad_cli.reporting.render.html import to_html, write_html
from altgrad_cli.reporting.render.pictures import to_svg
from altgrad_cli.reporting.report import build_report
from tests.reporting.browser import visit
from tests.reporting.recorded import config, record


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    return to_html(build_report([sweep]))


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_links_to_nothing_outside(page: str) -> None:
    elements = _Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "default-src 'none'" in page
    assert "@import" not in page[: page.index("<script>")]


def test_the_page_is_small(page: str) -> None:
    assert page.count("<script>") == 1
    assert len(page.encode()) < 1_000_000


def test_every_number_of_a_table_says_where_it_comes_from(page: str) -> None:
    cells = re.findall(r"<td( title=\"[^\"]+\")?", page)
    assert cells
    assert all(cells)
    assert 'title="e7m0-uniform: recovered_fraction"' in page


def test_text_from_a_log_is_text(tmp_path: Path) -> None:
    collapse = {"class": "nonfinite", "step": 5}
    run = record(tmp_path / "run", config(), floor=2.5, steps=10, collapse=collapse)
    events = run / "events.jsonl"
    events.write_text(
        events.read_text().replace("nonfinite from step 5", "</script><script>alert(1)</script>`*x*")
    )
    shown = to_html(build_report([run]))
    assert "<script>alert" not in shown
    assert "&lt;/script&gt;&lt;script&gt;alert" in shown


_POINT = """<script>
const told = {};
for (const plot of document.querySelectorAll(".plot")) {
  const { left, top, width, height } = plot.getBoundingClientRect();
  const { points: [point], grids: [grid] } = hovers[plot.dataset.figure];
  const middle = (low, high, count) => low + (high - low) / count / 2;
  const [x, y] = point ?? [
    middle(grid.box[0], grid.box[2], grid.columns.length), middle(grid.box[1], grid.box[3], grid.rows.length),
  ];
  const place = { clientX: left + x * width, clientY: top + y * height };
  plot.dispatchEvent(new PointerEvent("pointermove", place));
  told[plot.dataset.figure] = document.querySelector(".note").textContent;
}
document.body.dataset.told = JSON.stringify(told);
</script></body>"""
"""Puts the pointer on the first point or cell of every picture, and keeps what the page says of it."""


def test_the_page_in_a_browser(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report = build_report([sweep])
    write_html(report, path)
    path.write_text(path.read_text().replace("</body>", _POINT))
    seen = visit(path, tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert len(report.figures) > 5
    (told,) = re.findall(r'data-told="([^"]*)"', seen.dom)
    said = json.loads(html.unescape(told))
    assert set(said) == {figure.key for figure in report.figures}
    for figure in report.figures:
        words, (_, hover) = said[figure.key], to_svg(figure)
        if hover["points"]:
            assert words == hover["points"][0][2]
        else:
            grid = hover["grids"][0]
            value = grid["values"][0].split()[0]
            assert words == f"{grid['rows'][0]}\nstep {grid['columns'][0]}: {value}"


def test_the_browser_would_tell(tmp_path: Path) -> None:
    """The checks above can fail: a page with an error on it, and one that asks for something, are seen."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><html><body><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('spoken'); missing()</script></body></html>"
    )
    seen = visit(path, tmp_path)
    assert any("spoken" in line for line in seen.console)
    assert any("missing is not defined" in line for line in seen.console)
    assert "http://127.0.0.1:9/x.png" in seen.requests
