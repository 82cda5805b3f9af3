"""Conditions with their bounds, and the verdict that what was measured of them comes to.

The bounds stand in the claim, before anything is measured. A condition is judged by an interval over seeds:
it holds where the whole interval lies on the side that the claim names, is contradicted where the whole of it
lies on the other side, and is open in between. With gaps of .20, .24 and .22 nats, "above .05" holds: the
interval is .22 +- .05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from altgrad_cli.metrics.noise import Interval, paired_interval
from altgrad_cli.notation import format_value

Relation = Literal["above", "below"]
ClaimVerdict = Literal["agrees", "disagrees", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A number that has to lie above, or below, a bound if the claim is right."""

    quantity: str
    relation: Relation
    bound: float
    unit: str = ""
    """"" for a number without one."""
    premise: bool = False
    """Whether it is about the experiment and not the claim: where it fails, nothing can be told."""

    @property
    def words(self) -> str:
        """The condition as a sentence's end: ``loss gap to fp32 above 0.05 nats``."""
        return f"{self.quantity} {self.relation} {format_value(self.bound)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class SeedValues:
    """What was measured of a condition's quantity."""

    values: tuple[float, ...]
    """One a seed, paired where it is a difference of two runs."""
    exact: bool = False
    """Whether no seed could change it: arithmetic, or a count of what must not happen at all."""

    @property
    def interval(self) -> Interval:
        """The mean and its 95 % interval; a single value that a seed could change has none."""
        if self.exact or set(self.values) == {math.inf}:  # every run of the arm came to nothing
            return Interval(fmean(self.values), 0.0)
        found = paired_interval(self.values)
        assert found is not None, "a sample has values"
        return found


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came of measuring a claim."""

    samples: tuple[SeedValues, ...]
    """One a condition, in their order."""
    seeds: tuple[int, ...] = ()
    """Of runs or of draws; none where nothing is drawn."""
    texts: tuple[str, ...] = ()
    """What was trained on; none where nothing was trained."""
    rates: tuple[float, ...] = ()
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Validation loss of each arm, a value a seed, for the reader."""

    @property
    def scope(self) -> str:
        """What it was measured on: ``3 seeds, one text, one rate``."""
        if not self.seeds:
            return "arithmetic, nothing is drawn"
        if not self.texts:
            return f"{_counted(self.seeds, 'draw')}, no training"
        parts = (_counted(self.seeds, "seed"), _counted(self.texts, "text"), _counted(self.rates, "rate"))
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Checked:
    """A condition with what was measured of it."""

    condition: Condition
    sample: SeedValues
    holds: bool | None
    """None: the interval holds the bound, or is not known."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim's verdict, and everything that it follows from."""

    verdict: ClaimVerdict
    checked: tuple[Checked, ...]


def check(condition: Condition, sample: SeedValues) -> Checked:
    """Hold what was measured against the bound."""
    interval = sample.interval
    holds = None
    if interval.half_width is not None:
        low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
        right, wrong = low > condition.bound, high <= condition.bound
        if condition.relation == "below":
            right, wrong = high < condition.bound, low >= condition.bound
        holds = True if right else False if wrong else None
    return Checked(condition, sample, holds)


def judge(conditions: tuple[Condition, ...], measurement: Measurement) -> Judgement:
    """``agrees`` where all conditions hold, ``disagrees`` where one is contradicted; premises first."""
    pairs = zip(conditions, measurement.samples, strict=True)
    checked = tuple(check(condition, sample) for condition, sample in pairs)
    verdict: ClaimVerdict = "cannot tell"
    if all(each.holds for each in checked if each.condition.premise):
        states = [each.holds for each in checked if not each.condition.premise]
        verdict = "disagrees" if False in states else "cannot tell" if None in states else "agrees"
    return Judgement(verdict, checked)


def _counted(things: tuple[object, ...], word: str) -> str:
    return f"one {word}" if len(things) == 1 else f"{len(things)} {word}s"
