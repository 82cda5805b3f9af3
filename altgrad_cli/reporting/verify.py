"""Recompute every number of a committed report from the logs, and say what differs.

A report is checked as it is read, folds and the tables beside it included: each cited number by its own
source, each table cell by its column's source and its row's label, each verbatim block by its text. What then
still looks like a number has no source, and is reported too, so a number that was added or whose source was
cut away does not pass.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from altgrad_cli.errors import UsageError
from altgrad_cli.files import open_regular, reason_of
from altgrad_cli.notation import unescape_markdown
from altgrad_cli.reporting.blocks.sources import CITED, ROW
from altgrad_cli.reporting.evidence.labels import run_labels
from altgrad_cli.reporting.evidence.quantities import TEXTS
from altgrad_cli.reporting.evidence.runs import Evidence
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.render.markdown import CELLS, END, SEPARATOR, VERBATIM, read_csv
from altgrad_cli.runs.folder import EVENTS
from altgrad_cli.sweeps.results import is_sweep

_HEADER = re.compile(r"<!-- altgrad report; computed from the logs in: (?P<logs>.+?) -->")
_NUMBER = re.compile(r"(?<![\w.,/-])[-−+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w/-]|\.\w)|\bNaN\b")
"""A number that stands by itself; digits inside names such as E7M0, blocks.0.attn or 8-bit are none."""
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_BESIDE = re.compile(r"\]\((?P<path>[^()/]+/[^()/]+\.csv)\)")
"""The link to a table beside the report."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One place where the report and the logs do not agree."""

    line: int
    """Line of the report, from 1."""
    printed: str
    computed: str | None
    """What the logs give; None where nothing says what the number should be."""
    source: str
    """Where the number says it comes from, or why it could not be checked."""

    def __str__(self) -> str:
        if self.computed is None:
            return f"line {self.line}: {self.printed}: {self.source}"
        return f"line {self.line}: printed {self.printed}, the log gives {self.computed} ({self.source})"


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of checking one report."""

    checked: int
    """Values that were recomputed."""
    differences: tuple[Mismatch, ...]


def verify(report: Path, logs: Sequence[Path] = ()) -> Verification:
    """Check ``report`` against ``logs``, or failing those against the folders that its first line names.

    Those folders are looked for from the report's own folder first, then from the working directory.

    Raises:
        UsageError: the file is no report of altgrad, or its logs are not there.
    """
    try:
        with open_regular(report) as file:
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise UsageError(f"cannot read the report {report}: {reason}", where=str(report)) from None
    header = _HEADER.search(text)
    if header is None:
        raise UsageError(
            f"not a report of altgrad: {report}",
            where=str(report),
            hint="altgrad report --markdown writes one",
        )
    folders = list(logs) or [_locate(name, report) for name in header["logs"].split(", ")]
    checked, differences = check(text, gather(folders, layer_metrics=metrics_named(text)), report.parent)
    return Verification(checked, differences)


def check(text: str, scope: Scope, folder: Path | None = None) -> tuple[int, tuple[Mismatch, ...]]:
    """How many values of the report ``text`` were recomputed from ``scope``, and what differs.

    ``folder`` is where the report lies; a table beside it is missing without one.
    """
    checker = _Checker(scope.evidence)
    kind = source = ""  # of the table or verbatim block that a comment announces
    rows = text.splitlines()
    for number, lines in [*_pieces(rows), (len(rows) + 1, [""])]:
        line = lines[0]
        is_table = line.startswith("|") and len(lines) > 1
        link = _BESIDE.search(line) if kind == CELLS else None
        if kind == CELLS and not is_table and link is None:
            checker.differ(number - 1, "", None, "a table is missing here")
        if kind == CELLS and is_table:
            checker.table(number, lines, source.split(SEPARATOR))
        elif link is not None:
            checker.beside(number, folder, link["path"], source.split(SEPARATOR))
        elif kind == VERBATIM:
            checker.verbatim(number, lines, source)
        elif not line.startswith("```"):
            for offset, each in enumerate(lines):
                checker.sentence(number + offset, each)
        kind = next((each for each in (CELLS, VERBATIM) if line.startswith(each) and line.endswith(END)), "")
        source = line[len(kind) : -len(END)]
    return checker.checked, tuple(checker.differences)


def _pieces(lines: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """A fenced block, a table or a line, each with the number of its first line."""
    start = 0
    while start < len(lines):
        end = start + 1
        if lines[start].startswith("```"):
            end = next((row + 1 for row in range(end, len(lines)) if lines[row] == "```"), len(lines))
        elif lines[start].startswith("|"):
            end = next((row for row in range(end, len(lines)) if not lines[row].startswith("|")), len(lines))
        yield start + 1, lines[start:end]
        start = end


def _locate(name: str, report: Path) -> Path:
    for candidate in (report.parent / name, Path(name)):
        if is_sweep(candidate) or (candidate / EVENTS).is_file():
            return candidate
    raise UsageError(
        f"the logs of {report} are not here: {name}",
        where=str(report),
        hint="run its command again (see its last section), then: altgrad report FOLDER --verify REPORT",
    )


def metrics_named(text: str) -> set[str]:
    """The metrics that any source of the report takes; the others need not be read."""
    arguments = re.findall(r"\w\(([\w/]+)(?:>=[\d.]+|#\d+)?\)", html.unescape(text))
    return set(arguments)


@dataclass
class _Checker:
    """Compares what is printed, piece by piece, with what the evidence gives."""

    evidence: Evidence
    checked: int = 0
    differences: list[Mismatch] = field(default_factory=list)

    @cached_property
    def _names(self) -> list[str]:
        """What runs, arms and formats are called, the longest first: no digit in these is a number."""
        arms = self.evidence.arms.values()
        labels = (run_labels(arms, texts=texts).values() for texts in (True, False))
        names = {*self.evidence.runs, *self.evidence.groups}.union(*labels)
        return sorted(names, key=len, reverse=True)

    def differ(self, line: int, printed: str, computed: str | None, source: str) -> None:
        """Note a difference."""
        self.differences.append(Mismatch(line, printed, computed, source))

    def _compare(self, line: int, printed: str, source: str) -> None:
        self.checked += 1
        try:
            computed = self.evidence.text(source)
        except UsageError as error:
            self.differ(line, printed, None, f"{source}: {error.message}")
            return
        if computed != printed:
            self.differ(line, printed, computed, source)

    def sentence(self, number: int, line: str) -> None:
        """Each cited number by its source; what else looks like a number has none."""
        if link := _BESIDE.search(line):
            self.differ(number, link["path"], None, "a table without its sources")
        for match in CITED.finditer(line):
            self._compare(number, html.unescape(match["text"]), html.unescape(match["source"]))
        rest = _IMAGE.sub(" ", CITED.sub(" ", line))
        for name in self._names:
            rest = rest.replace(name, " ")  # it may well hold digits that stand alone
        for match in () if rest.startswith("<!--") else _NUMBER.finditer(rest):
            self.differ(number, match[0], None, "a number without a source")

    def table(self, number: int, lines: Sequence[str], sources: Sequence[str]) -> None:
        """Each cell by its column's source and its row's label, below two lines of headers."""
        rows = [
            [unescape_markdown(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            for line in lines
        ]
        self.sentence(number, " ".join(rows[0]))
        for line, (label, *cells) in enumerate(rows[2:], start=number + 2):
            self._row(line, label.strip("`"), cells, sources)

    def beside(self, number: int, folder: Path | None, name: str, sources: Sequence[str]) -> None:
        """The same of a CSV file in ``folder``; the line is that of its link in the report."""
        try:
            with open_regular((folder or Path()) / name) as file:
                rows = read_csv(file.read().decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "it is not a text in UTF-8"
            self.differ(number, name, None, f"a table is missing here: {reason}")
            return
        for label, *cells in filter(None, rows[1:]):
            self._row(number, label, cells, sources)

    def _row(self, line: int, label: str, cells: Sequence[str], sources: Sequence[str]) -> None:
        if len(cells) != len(sources):
            self.differ(line, " | ".join([label, *cells]), None, "more or fewer cells than sources")
            return
        for cell, source in zip(cells, sources, strict=True):
            self._compare(line, cell, source.replace(ROW, label))

    def verbatim(self, number: int, lines: Sequence[str], source: str) -> None:
        """A fenced block, line by line."""
        name, _, what = source.partition(": ")
        if what not in TEXTS or name not in self.evidence.runs:
            self.differ(number - 1, source, None, "not a text that the logs give")
            return
        computed = TEXTS[what](self.evidence.run(name)).splitlines()
        self.checked += len(computed)
        pairs = zip_longest(lines[1:-1], computed, fillvalue="(nothing)")
        for line, (printed, text) in enumerate(pairs, start=number + 1):
            if printed != text:
                self.differ(line, printed.strip(), text.strip(), source)
