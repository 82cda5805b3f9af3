"""Runs of one format: its seeds and its texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.sweeps.arms import EMBEDDED, Arm, text_words


def families(arms: Iterable[Arm]) -> list[tuple[list[Arm], dict[str, str]]]:
    """Format arms that differ in seed, text and tuned rate only, with the words of the texts.

    A run that stands in two sweeps counts once: made again it has the same bits and is no further evidence.
    """
    families: dict[TrainConfig, list[Arm]] = {}
    once: dict[TrainConfig, Arm] = {}
    for arm in arms:
        if arm.kind == "format":
            once.setdefault(arm.config, arm)
    formats = list(once.values())
    for arm in formats:
        config = without_text(replace(arm.config, seed=0))
        families.setdefault(replace(config, learning_rate=1.0) if is_tuned(arm) else config, []).append(arm)
    words = text_words(list(dict.fromkeys(map(text_of, formats))))
    return [(family, words) for family in families.values()]


def is_tuned(arm: Arm) -> bool:
    """Whether ``arm`` runs at the best of several learning rates."""
    return arm.config.data.evaluate_on == "final"


def text_of(arm: Arm) -> str:
    """The text that ``arm`` is trained on, as it was named."""
    return arm.config.data.hub or arm.config.data.path or EMBEDDED


def without_text(config: TrainConfig) -> TrainConfig:
    """What ``config`` shares with the same run on another text."""
    return replace(config, data=replace(config.data, path=None, hub=None, text_field=None))
