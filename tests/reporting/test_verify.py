"""A committed report is only as good as its check: every number that is changed has to be caught."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.render.markdown import to_markdown, write_markdown
from altgrad_cli.reporting.report import build_report
from altgrad_cli.reporting.verify import check, verify
from tests.reporting.recorded import record_sweep

SHOWN = re.compile(
    r"<!--.*?-->|<span title=\"[^\"]*\">|</span>|!\[[^\]]*\]\([^)]*\)|(?P<number>\d+(?:\.\d+)?)"
)
"""Numbers that a reader sees; what is markup or a picture's link is passed over."""


@pytest.fixture(scope="module")
def reports(sweep: Path) -> dict[str, str]:
    return {
        "comparison": to_markdown(build_report([sweep]), None),
        "failure": to_markdown(build_report([sweep / "e7m0-uniform"]), None),
    }


def tampered(text: str) -> Iterator[tuple[int, str, str]]:
    """For each number that is shown: its place, the text with its last digit changed, and the number."""
    commands = re.finditer(r"```sh.*?```|`altgrad [^`]*`", text, re.DOTALL)
    fenced = [range(m.start(), m.end()) for m in commands]
    for match in SHOWN.finditer(text):
        number = match["number"]
        inside_a_word = number and (
            text[match.start() - 1].isalpha() or text[match.end() : match.end() + 1].isalpha()
        )
        if not number or inside_a_word or any(match.start() in fence for fence in fenced):
            continue
        digit = str((int(number[-1]) + 1) % 10)
        yield match.start(), text[: match.end() - 1] + digit + text[match.end() :], number


@pytest.mark.parametrize("kind", ["comparison", "failure"])
def test_an_untouched_report_agrees_with_its_logs(reports: dict[str, str], scope: Scope, kind: str) -> None:
    checked, differences = check(reports[kind], scope)
    assert not differences
    assert checked > 100


@pytest.mark.parametrize("kind", ["comparison", "failure"])
@pytest.mark.parametrize("share", [0.12, pytest.param(1.0, marks=pytest.mark.campaign)])
def test_every_number_that_is_changed_is_caught(
    reports: dict[str, str], scope: Scope, kind: str, share: float
) -> None:
    draw = random.Random(7)
    missed, tried = [], 0
    for place, text, number in tampered(reports[kind]):
        if draw.random() > share:
            continue
        tried += 1
        if not check(text, scope)[1]:
            missed.append((reports[kind][max(0, place - 60) : place + 20], number))
    assert tried > 30
    assert not missed


def test_the_line_the_value_and_the_source_are_named(tmp_path: Path, sweep: Path) -> None:
    report = tmp_path / "report.md"
    text = to_markdown(build_report([sweep / "e7m0-uniform"]), None)
    assert '@120">2.921</span>' in text
    report.write_text(text.replace('@120">2.921</span>', '@120">2.123</span>', 1))
    (difference,) = verify(report).differences
    assert difference.printed == "2.123"
    assert difference.computed == "2.921"
    assert difference.source == "e7m0-uniform: at(validation_loss)@120"
    assert text.splitlines()[difference.line - 1].startswith("- **Loss**")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "<summary>Attribution</summary>",
            "<summary>Attribution</summary>\n\nIt also reached 0.97 elsewhere.",
            "without a source",
        ),
        ("<summary>Attribution</summary>", "<summary>Attribution in 3 parts</summary>", "without a source"),
        ('<span title="e7m0-uniform: seed">42</span>', "42", "without a source"),
        ("mean(update_transfer)@31-80", "mean(gradient_norm)@31-80", "mean(gradient_norm)"),
        ("mean(update_transfer)@31-80", "no_such_quantity@31-80", "no quantity"),
        ("  max_steps: 120", "  max_steps: 121", "configuration"),
        ("seed: 42", "seed: 43", "configuration"),
    ],
)
def test_other_ways_to_go_wrong(reports: dict[str, str], scope: Scope, old: str, new: str, said: str) -> None:
    text = reports["failure"]
    if old not in text:
        old, new = old.strip(), new.strip()
    assert old in text
    differences = check(text.replace(old, new, 1), scope)[1]
    assert differences
    assert said in str(differences[0])


def test_a_cell_moved_or_dropped_is_caught(reports: dict[str, str], scope: Scope) -> None:
    text = reports["failure"]
    row = next(line for line in text.splitlines() if line.startswith("| `blocks.0.attn.c_proj`"))
    cells = row.split("|")
    assert check(text.replace(row, "|".join([*cells[:2], *cells[3:]])), scope)[1], "a cell is missing"
    header = next(line for line in text.splitlines() if line.startswith("<!-- cells:"))
    assert check(text.replace(header, f"{header}\n\nNo table."), scope)[1], "the table is gone"


def test_a_log_that_says_something_else_is_caught(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path / "sweep")
    report = tmp_path / "report.md"
    report.write_text(to_markdown(build_report([sweep]), None))
    assert verify(report).differences == ()
    events = sweep / "e7m0-uniform" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    for line in lines:
        if line["event"] == "evaluated" and line["step"] == 120:
            line["validation_loss"] += 0.2
    events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sources = {difference.source for difference in verify(report).differences}
    assert any("last(validation_loss)" in source for source in sources)
    assert any("recovered_fraction" in source for source in sources)


def test_logs_are_found_beside_the_report_and_where_they_are_said_to_be(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path / "a" / "sweep")
    report = tmp_path / "a" / "report.md"
    text = to_markdown(build_report([sweep]), None)
    report.write_text(text.replace(str(sweep), "sweep"))
    assert not verify(report).differences
    sweep.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="not here: sweep"):
        verify(report)
    assert not verify(report, [tmp_path / "moved"]).differences


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# Notes\n\nrho was 0.5\n")
    with pytest.raises(UsageError, match="not a report of altgrad"):
        verify(file)
    with pytest.raises(UsageError, match="cannot read"):
        verify(tmp_path / "absent.md")


def test_gathering_for_a_check_reads_only_the_metrics_named(tmp_path: Path, sweep: Path) -> None:
    from altgrad_cli.reporting.verify import metrics_named

    named = metrics_named(to_markdown(build_report([sweep / "e7m0-uniform"]), None))
    assert {"bit_stall_rate", "zero_update_fraction", "overflow_rate/gradients"} <= named
    assert set(gather([sweep], layer_metrics=named).evidence.run("e7m0-uniform").layer_metrics) <= named


def test_a_table_beside_the_report_is_checked_cell_by_cell(tmp_path: Path, sweep: Path) -> None:
    report = tmp_path / "report.md"
    write_markdown(replace(build_report([sweep]), logs=(str(sweep),)), report)
    beside = tmp_path / "report" / "verdicts.csv"
    whole, untouched = verify(report), beside.read_text()
    assert not whole.differences
    assert len(untouched.splitlines()) == 10
    header, row, *rest = untouched.splitlines()
    cells = row.split(",")
    for place in range(1, len(cells)):
        changed = [*cells[:place], "0.123", *cells[place + 1 :]]
        beside.write_text("\n".join([header, ",".join(changed), *rest]))
        (difference,) = verify(report).differences
        assert (difference.printed, difference.computed) == ("0.123", cells[place])
    beside.write_text("\n".join([header, ",".join(cells[:-1]), *rest]))
    assert "more or fewer cells" in str(verify(report).differences[0])
    beside.unlink()
    assert "a table is missing here" in str(verify(report).differences[0])
    beside.write_text(untouched)
    text = report.read_text()
    comment = next(line for line in text.splitlines() if line.startswith("<!-- cells: {}: grade"))
    report.write_text(text.replace(comment, ""))
    assert "a table without its sources" in str(verify(report).differences[0])
