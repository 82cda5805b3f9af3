"""The committed reports are read: what stands open in all of them together is counted, folds are not."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

REPORTS = Path(__file__).parent.parent / "reports"
MOST_IN_ALL = 1500
MOST_IN_ONE = 120
OLD = {
    *("attribution-e7m0", "attribution-unscaled", "claims", "cost-of-measuring", "e7m0-failure"),
    *("e7m0-interventions", "format-comparison-bpe4096", "learning-rate"),
    *("planted-failures", "postln", "rounding", "rules-cellar", "rules-embedded", "scaling", "standard"),
}
"""Reports that were written before sections were folded. It only ever shrinks."""
_HIDDEN = re.compile(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|<[^>]*>", re.DOTALL)


def open_words(markdown: str) -> int:
    """Words that a reader sees before unfolding anything: of prose, headings, tables and the folds' titles.

    A word has a letter; numbers, comments, links and pictures are none.
    """
    depth, seen = 0, []
    for part in re.split(r"(<details[^>]*>|</details>)", markdown):
        if part.startswith("<details"):
            depth += 1
        elif part == "</details>":
            depth -= 1
        elif depth == 0:
            seen.append(part)
        elif depth == 1 and (summary := re.match(r"\s*<summary>(.*?)</summary>", part, re.DOTALL)):
            seen.append(summary[1])
    text = html.unescape(_HIDDEN.sub(" ", "\n".join(seen)))
    return sum(any(letter.isalpha() for letter in word) for word in text.split())


def reports() -> dict[str, int]:
    """Report -> words that stand open in it."""
    paths = (path for path in REPORTS.glob("*.md") if path.stem != "README")
    return {path.stem: open_words(path.read_text(encoding="utf-8")) for path in paths}


def test_all_reports_together_are_read_in_minutes() -> None:
    assert sum(words for name, words in reports().items() if name not in OLD) <= MOST_IN_ALL


@pytest.mark.parametrize(("name", "words"), sorted(reports().items()))
def test_a_report_says_its_answer_and_folds_the_rest(name: str, words: int) -> None:
    assert (words <= MOST_IN_ONE) == (name not in OLD), "an exception that is not needed any more has to go"


def test_exceptions_are_reports() -> None:
    assert reports().keys() >= OLD


def test_words_are_counted_as_they_are_seen() -> None:
    text = '# A title\n\n<!-- not seen -->\nrho is <span title="run: rho">0.18</span>, [there](x/y.csv).\n'
    assert open_words(text) == 5
    fold = (
        "<details>\n<summary>Two words</summary>\n\nNever seen.\n\n<details>\n<summary>Nor</summary>\n\nthis"
    )
    assert open_words(f"{text}{fold}</details></details>\n| `arm` | failed | 0.5 |\n") == 5 + 2 + 2
    assert open_words("![a picture that says it](x.png)\n\nA caption.") == 2
