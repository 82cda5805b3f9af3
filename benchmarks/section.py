"""What a part of the report is: a table, the claims it decides, and what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the measuring is done; ``quick`` goes through everything with sizes at which no figure counts."""

    threads: int = 2
    quick: bool = False
    compiled: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure that was promised, with the figure that was found; both in ``unit``, lower is better."""

    what: str
    found: float
    limit: float
    unit: str = "x"

    @property
    def holds(self) -> bool:
        return self.found <= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the report."""

    lines: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """What is not in the tables, and why."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first column is text, all others are figures."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def claims_table(claims: Sequence[Claim]) -> list[str]:
    """What was promised beside what was found."""
    rows = [
        (
            claim.what,
            f"{claim.found:.2f} {claim.unit}",
            f"{claim.limit:g} {claim.unit}",
            "yes" if claim.holds else "**no**",
        )
        for claim in claims
    ]
    return table(("promised", "found", "at most", "holds"), rows)


def reason(error: BaseException) -> str:
    """Why something could not be measured, as one short line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:120]}" if said else type(error).__name__
