"""Runs that are one arm: names under which a table's row or a source asks for all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.comparison import seed_groups
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict
from altgrad_cli.sweeps.tuning import without_seed


def run_groups(arms: Sequence[Arm], formats: Iterable[FormatVerdict]) -> dict[str, tuple[str, ...]]:
    """Name -> the runs it stands for: an arm over its seeds, a format over its texts too, or on one of them.

    A name that a run has by itself, or that would mean two things, is none. A name that a format shares with
    its arm on one text is the format's: with the text that arm has a name of its own.
    """
    named: list[tuple[str, tuple[str, ...]]] = []
    for found in formats:
        named.append((found.arm, tuple(name for each in found.texts for name in each.runs)))
        if len(found.texts) > 1:
            named += [(f"{found.arm}/{each.text}", each.runs) for each in found.texts]
    whole = {name for name, _ in named}
    for group in seed_groups(arms):
        if group[1:] and (name := without_seed(group[0])) not in whole:
            named.append((name, tuple(arm.name for arm in group)))
    taken = {arm.name for arm in arms}
    meant: dict[str, set[tuple[str, ...]]] = {}
    for name, runs in named:
        if runs and name not in taken:
            meant.setdefault(name, set()).add(runs)
    return {name: next(iter(runs)) for name, runs in meant.items() if len(runs) == 1}
