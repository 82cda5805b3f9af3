"""The index of the committed reports holds every report, and every number it quotes stands in that report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPORTS = Path(__file__).parent.parent / "reports"
_LINK = re.compile(r"\]\((?P<file>[\w-]+\.md)\)")
_NUMBER = re.compile(r"(?<![\w.,/-])-?\d[\d,]*(?:\.\d+)?(?![\w/-]|\.\w)")
_TAG = re.compile(r"<[^>]*>")


def entries() -> list[tuple[str, str]]:
    """(report, what the index says of it), a bullet each."""
    bullets = re.split(r"^- ", (REPORTS / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = []
    for bullet in bullets:
        link = _LINK.search(bullet)
        assert link is not None, f"a bullet without a report: {bullet[:60]}"
        found.append((link["file"], bullet.split("\n\n")[0]))
    return found


def numbers(text: str) -> set[str]:
    return {match.replace(",", "") for match in _NUMBER.findall(_LINK.sub("", text))}


def missing(report: str, sentence: str) -> set[str]:
    """Numbers of the sentence that the report does not hold."""
    return numbers(sentence) - numbers(_TAG.sub("", (REPORTS / report).read_text(encoding="utf-8")))


def test_every_report_is_in_the_index() -> None:
    assert {report for report, _ in entries()} == {path.name for path in REPORTS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize(("report", "sentence"), entries(), ids=[report for report, _ in entries()])
def test_numbers_of_the_index_stand_in_their_report(report: str, sentence: str) -> None:
    assert not missing(report, sentence)


def test_a_number_that_is_not_in_the_report_is_found() -> None:
    report, sentence = entries()[0]
    assert missing(report, f"{sentence} and 0.123456789") == {"0.123456789"}
