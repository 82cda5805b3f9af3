"""Recompute every number of a committed report from the logs, and say what differs.

A report is checked as it is read: each cited number by its own source, each table cell by its column's source
and its row's label, each verbatim block by its text. What then still looks like a number has no source, and
is reported too, so a number that was added or whose source was cut away does not pass.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.errors import UsageError
from altgrad_cli.files import open_regular
from altgrad_cli.notation import unescape_markdown
from altgrad_cli.reporting.blocks.sources import CITED, ROW
from altgrad_cli.reporting.evidence.quantities import TEXTS
from altgrad_cli.reporting.evidence.runs import Evidence
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.render.markdown import CELLS, END, SEPARATOR, VERBATIM
from altgrad_cli.runs.folder import EVENTS
from altgrad_cli.sweeps.results import is_sweep

_HEADER = re.compile(r"<!-- altgrad report; computed from the logs in: (?P<logs>.+?) -->")
_NUMBER = re.compile(r"(?<![\w.,/-])[-−+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w/-]|\.\w)|\bNaN\b")
"""A number that stands by itself; digits inside names such as E7M0, blocks.0.attn or 8-bit are none."""
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")


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

    report: Path
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
        raise UsageError(f"cannot read the report {report}: {error}", where=str(report)) from None
    header = _HEADER.search(text)
    if header is None:
        raise UsageError(
            f"not a report of altgrad: {report}",
            where=str(report),
            hint="altgrad report --markdown writes one",
        )
    folders = list(logs) or [_locate(name, report) for name in header["logs"].split(", ")]
    checked, differences = check(text, gather(folders, layer_metrics=metrics_named(text)))
    return Verification(report, checked, differences)


def check(text: str, scope: Scope) -> tuple[int, tuple[Mismatch, ...]]:
    """How many values of the report ``text`` were recomputed from ``scope``, and what differs."""
    checker = _Checker(text, scope)
    return checker.checked, tuple(checker.differences)


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


class _Checker:
    """Goes through a report from top to bottom, once."""

    def __init__(self, text: str, scope: Scope) -> None:
        self.scope = scope
        self.evidence: Evidence = scope.evidence
        self.checked = 0
        self.differences: list[Mismatch] = []
        self.lines = text.splitlines()
        self.row = 0
        while self.row < len(self.lines):
            self._block()

    def _block(self) -> None:
        line = self.lines[self.row]
        if line.startswith(CELLS) and line.endswith(END):
            self._table(line[len(CELLS) : -len(END)].split(SEPARATOR))
        elif line.startswith(VERBATIM) and line.endswith(END):
            self._verbatim(line[len(VERBATIM) : -len(END)])
        elif line.startswith("```"):
            self._fence()
        else:
            self._sentence(line)
            self.row += 1

    def _differ(self, printed: str, computed: str | None, source: str, row: int | None = None) -> None:
        self.differences.append(Mismatch((self.row if row is None else row) + 1, printed, computed, source))

    def _compare(self, printed: str, source: str, row: int | None = None) -> None:
        self.checked += 1
        try:
            computed = self.evidence.text(source)
        except UsageError as error:
            self._differ(printed, None, f"{source}: {error.message}", row)
            return
        if computed != printed:
            self._differ(printed, computed, source, row)

    def _sentence(self, line: str) -> None:
        for match in CITED.finditer(line):
            self._compare(html.unescape(match["text"]), html.unescape(match["source"]))
        self._unsourced(line, self.row)

    def _unsourced(self, line: str, row: int) -> None:
        """Report what looks like a number in ``line`` and has no source."""
        rest = _IMAGE.sub(" ", CITED.sub(" ", line))
        if rest.startswith("<!--"):
            return
        for match in _NUMBER.finditer(self._without_names(rest)):
            self._differ(match[0], None, "a number without a source", row)

    def _without_names(self, line: str) -> str:
        """The line less the names of runs, which may well hold digits that stand alone."""
        for name in sorted(self.evidence.runs, key=len, reverse=True):
            line = line.replace(name, " ")
        return line

    def _table(self, sources: list[str]) -> None:
        header = self.row
        self.row += 1
        rows = list(self._table_rows())
        if len(rows) < 2:
            self._differ("", None, "a table is missing here", header)
            return
        self._unsourced(" ".join(rows[0][1]), rows[0][0])
        for number, cells in rows[2:]:
            label = cells[0].strip("`")
            if len(cells) != len(sources) + 1:
                self._differ(" | ".join(cells), None, "more or fewer cells than sources", number)
                continue
            for cell, source in zip(cells[1:], sources, strict=True):
                self._compare(cell, source.replace(ROW, label), number)

    def _table_rows(self) -> Iterator[tuple[int, list[str]]]:
        while self.row < len(self.lines) and self.lines[self.row].startswith("|"):
            cells = re.split(r"(?<!\\)\|", self.lines[self.row].strip().strip("|"))
            yield self.row, [unescape_markdown(cell.strip()) for cell in cells]
            self.row += 1

    def _fence(self) -> str:
        """Pass over a fenced block and return its text."""
        self.row += 1
        start = self.row
        while self.row < len(self.lines) and self.lines[self.row] != "```":
            self.row += 1
        text = "\n".join(self.lines[start : self.row])
        self.row += 1
        return text

    def _verbatim(self, source: str) -> None:
        start = self.row
        self.row += 1
        printed = self._fence().splitlines()
        name, _, what = source.partition(": ")
        make: Callable[..., str] | None = TEXTS.get(what)
        if make is None or name not in self.evidence.runs:
            self._differ(source, None, "not a text that the logs give", start)
            return
        computed = make(self.evidence.run(name)).splitlines()
        self.checked += len(computed)
        for offset in range(max(len(printed), len(computed))):
            pair = [lines[offset] if offset < len(lines) else "(nothing)" for lines in (printed, computed)]
            if pair[0] != pair[1]:
                self._differ(pair[0].strip(), pair[1].strip(), source, start + 2 + offset)
