"""What a format comes to over all its seeds and texts: the words that the evidence allows.

A verdict word needs every text and every seed: the interval of rho over the seeds of each text has to lie
within one grade, and each run has to have it. With fewer than ``VERDICT_SEEDS`` seeds or ``VERDICT_TEXTS``
texts, or at one learning rate, the words are in the past tense and say that it is a measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from altgrad_cli.metrics.noise import Interval, nested_interval
from altgrad_cli.metrics.thresholds import VERDICT_SEEDS, VERDICT_TEXTS
from altgrad_cli.metrics.verdict import GRADES, Grade, grades_between
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.comparison import Paired, pair_up
from altgrad_cli.sweeps.format_verdicts.families import families, is_tuned, text_of
from altgrad_cli.sweeps.tuning import without_seed
from altgrad_cli.sweeps.verdicts import JudgedRun

_VERBS: dict[Grade, str] = {"failed": "fails", "degraded": "degrades", "trained": "trains"}


@dataclass(frozen=True, kw_only=True, slots=True)
class OnText:
    """A format on one text, over its seeds."""

    text: str
    """Its short word."""
    planned: int
    """Runs that were asked for."""
    runs: tuple[str, ...]
    """The arms that have ended, seed by seed."""
    grades: tuple[Grade, ...]
    """Of those that have one; a run that ended non-finite has one without rho."""
    lost: bool
    """Whether a run ended non-finite, so that its loss is that of an early step."""
    rhos: tuple[float, ...]
    gap: Paired
    """To fp32 with the same rule, on the same text."""
    step_ratio: float | None
    """Mean; None as soon as one run has none."""

    @property
    def rho(self) -> Interval | None:
        """The recovered fraction with its interval over the seeds."""
        return nested_interval([self.rhos])

    @property
    def possible(self) -> tuple[Grade, ...]:
        """The grades of its runs, and those that the interval of rho reaches into; the worst first."""
        rho, found = self.rho, set(self.grades)
        if rho is not None and rho.half_width is not None:
            found |= set(grades_between(rho.mean - rho.half_width, rho.mean + rho.half_width))
        return tuple(grade for grade in GRADES if grade in found)

    def to_json(self) -> dict[str, object]:
        """Plain values; losses in nats."""
        return {
            "text": self.text,
            "runs": list(self.runs),
            "grades": list(self.grades),
            "grades_possible": list(self.possible),
            **plain_interval("recovered_fraction", self.rho),
            **plain_interval("loss_gap", self.gap.difference),
            "loss_gap_step": self.gap.step,
            "step_ratio": self.step_ratio,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatVerdict:
    """A format (with its regime, rule and settings) over all its seeds and texts."""

    arm: str
    """The arms' common name, without seed and text."""
    format: str
    texts: tuple[OnText, ...]
    tuned: bool
    """Whether it and its controls run each at the best of several learning rates."""

    @property
    def seeds(self) -> int:
        """Runs that have ended, on the text that has fewest."""
        return min(len(each.runs) for each in self.texts)

    @property
    def lacks(self) -> tuple[str, ...]:
        """What keeps a measurement from being a verdict; empty for a verdict."""
        texts, open_runs = len(self.texts), sum(each.planned - len(each.grades) for each in self.texts)
        return (
            *([f"{open_runs} of the runs without a grade"] if open_runs else []),
            *([_count(self.seeds, "seed")] if self.seeds < VERDICT_SEEDS else []),
            *([_count(texts, "text")] if texts < VERDICT_TEXTS else []),
            *([] if self.tuned else ["one rate"]),
        )

    @property
    def word(self) -> str | None:
        """``fails``, ``fails or degrades``, ``fails on law, trains on embedded``; None without any grade.

        A measurement is told of its runs alone: ``failed``, ``failed or degraded``.
        """
        if self.lacks:
            grades = {grade for each in self.texts for grade in each.grades}
            return " or ".join(grade for grade in GRADES if grade in grades) or None
        apart = {each.possible for each in self.texts}
        if len(apart) > 1 and all(len(grades) == 1 for grades in apart):
            return ", ".join(f"{_VERBS[each.possible[0]]} on {each.text}" for each in self.texts)
        either = set().union(*apart)
        return " or ".join(_VERBS[grade] for grade in GRADES if grade in either)

    @property
    def evidence(self) -> str:
        """What the word rests on, and how much that is."""
        if self.lacks:
            return f"{', '.join(self.lacks)}: a measurement, not a verdict"
        return f"{_count(len(self.texts), 'text')}, {_count(self.seeds, 'seed')} on each, tuned rates"

    @property
    def rho(self) -> Interval | None:
        """The recovered fraction: over the seeds of the one text, or over the texts; None if one has none."""
        rhos = [each.rhos for each in self.texts]
        return nested_interval(rhos) if all(rhos) else None

    @property
    def gap(self) -> Interval | None:
        """The loss gap to fp32 with the same rule, nats, over the same."""
        return nested_interval([each.gap.differences for each in self.texts])

    @property
    def step_ratio(self) -> float | None:
        """Mean over the texts; None as soon as one has none."""
        ratios = [each.step_ratio for each in self.texts]
        known = [ratio for ratio in ratios if ratio is not None]
        return fmean(known) if len(known) == len(ratios) else None

    def to_json(self) -> dict[str, object]:
        """Plain values; losses in nats."""
        return {
            "arm": self.arm,
            "format": self.format,
            "word": self.word,
            "evidence": self.evidence,
            "is_verdict": not self.lacks,
            "interval_over": "texts" if len(self.texts) > 1 else "seeds",
            **plain_interval("recovered_fraction", self.rho),
            **plain_interval("loss_gap", self.gap),
            "step_ratio": self.step_ratio,
            "texts": [each.to_json() for each in self.texts],
        }

    def __str__(self) -> str:
        return f"{self.arm}: {self.word or 'no verdict'} ({self.evidence})"


def format_verdicts(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> list[FormatVerdict]:
    """Every format of which a run has ended, over its seeds and texts, in the order of the plan."""
    found = [verdict_on(family, words, findings) for family, words in families(arms)]
    return [verdict for verdict in found if any(each.runs for each in verdict.texts)]


def verdict_on(
    family: Sequence[Arm], words: Mapping[str, str], findings: Mapping[str, JudgedRun]
) -> FormatVerdict:
    """What ``family`` comes to; ``words`` are those of the texts (both of ``families``)."""
    texts: dict[str, list[Arm]] = {}
    for arm in family:
        texts.setdefault(text_of(arm), []).append(arm)
    name = without_seed(family[0])
    if len(words) > 1:
        name = re.sub(rf"-{re.escape(words[text_of(family[0])])}(?=-|$)", "", name, count=1)
    return FormatVerdict(
        arm=name,
        format=family[0].format,
        texts=tuple(_on_text(words[text], members, findings) for text, members in texts.items()),
        tuned=is_tuned(family[0]),
    )


def _on_text(word: str, members: Sequence[Arm], findings: Mapping[str, JudgedRun]) -> OnText:
    ended = [arm for arm in members if arm.name in findings]
    found = [findings[arm.name] for arm in ended]
    ratios = [each.step_ratio for each in found]
    known = [ratio for ratio in ratios if ratio is not None]
    return OnText(
        text=word,
        planned=len(members),
        runs=tuple(arm.name for arm in ended),
        grades=tuple(each.verdict.grade for each in found if each.verdict.grade is not None),
        rhos=tuple(each.rho for each in found if each.rho is not None),
        lost=any((each.collapse or {}).get("class") == "nonfinite" for each in found),
        gap=pair_up([(arm.name, (arm.controls or {}).get("fp32", "")) for arm in ended], findings),
        step_ratio=fmean(known) if known and len(known) == len(ratios) else None,
    )


def _count(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def plain_interval(name: str, interval: Interval | None) -> dict[str, object]:
    """Mean and half width as plain values under ``name``."""
    return {
        name: interval.mean if interval else None,
        f"{name}_95": interval.half_width if interval else None,
    }
