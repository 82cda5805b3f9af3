"""Formats in order of their loss gap, with the chance that two neighbours are the other way round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.noise import Interval, chance_above, nested_interval
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.comparison import Paired, bench, pair_up
from altgrad_cli.sweeps.format_verdicts.families import families, text_of, without_text
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict, plain_interval, verdict_on
from altgrad_cli.sweeps.verdicts import JudgedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A format's place among those that are compared on the same texts."""

    rank: int
    arm: str
    ahead: str | None
    """The arm one place ahead."""
    difference: Interval | None
    """Validation loss less that of ``ahead``, nats; over seeds or texts as in ``FormatVerdict``."""
    other_way_round: float | None
    """The chance that this one is the better of the two, on the text where that is likeliest. None where it
    is not known, or at the first place."""

    def to_json(self) -> dict[str, object]:
        """Plain values; losses in nats."""
        return {
            "rank": self.rank,
            "arm": self.arm,
            "ahead": self.ahead,
            **plain_interval("val_loss_difference", self.difference),
            "other_way_round": self.other_way_round,
        }

    def __str__(self) -> str:
        if self.ahead is None:
            return self.arm
        chance = "?" if self.other_way_round is None else f"{self.other_way_round:.2g}"
        return f"{self.arm} ({chance})"


def rankings(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> list[list[Ranked]]:
    """The formats of each bench (the same but for format, precision and rule), the lowest loss gap first.

    One of which a run ended non-finite comes last, whatever it came to before.
    The order is claimed of every text, so the chance that two neighbours are the other way round is that of
    the text where it is largest, from ``chance_above`` of the differences seed by seed.
    """
    benches: dict[TrainConfig, list[tuple[float, list[Arm], FormatVerdict]]] = {}
    for family, words in families(arms):
        verdict = verdict_on(family, words, findings)
        if verdict.gap is not None:
            lost = math.isnan(verdict.gap.mean) or any(each.lost for each in verdict.texts)
            gap = math.inf if lost else verdict.gap.mean
            benches.setdefault(without_text(bench(family[0])), []).append((gap, family, verdict))
    return [_ranked(members, findings) for members in benches.values()]


def _ranked(
    members: list[tuple[float, list[Arm], FormatVerdict]], findings: Mapping[str, JudgedRun]
) -> list[Ranked]:
    members = sorted(members, key=lambda member: member[0])
    ranked = [Ranked(rank=1, arm=members[0][2].arm, ahead=None, difference=None, other_way_round=None)]
    for rank, (better, worse) in enumerate(pairwise(members), 2):
        by_text = [paired.differences for paired in _pair_texts(worse[1], better[1], findings)]
        chances = [chance_above([-each for each in differences]) for differences in by_text]
        known = [chance for chance in chances if chance is not None]
        ranked.append(
            Ranked(
                rank=rank,
                arm=worse[2].arm,
                ahead=better[2].arm,
                difference=nested_interval(by_text),
                other_way_round=max(known) if known and len(known) == len(chances) else None,
            )
        )
    return ranked


def _pair_texts(
    family: Sequence[Arm], others: Sequence[Arm], findings: Mapping[str, JudgedRun]
) -> list[Paired]:
    """Text by text, seed by seed."""
    by_run = {(text_of(arm), arm.config.seed): arm.name for arm in others}
    texts: dict[str, list[tuple[str, str]]] = {}
    for arm in family:
        texts.setdefault(text_of(arm), []).append((arm.name, by_run.get((text_of(arm), arm.config.seed), "")))
    return [pair_up(pairs, findings) for pairs in texts.values()]
