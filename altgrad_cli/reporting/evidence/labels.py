"""What a reader calls a run: its format, and whatever else tells it from the others.

The arms ``e7m0-standard-seed42`` and ``e7m0-uniform-seed42`` of one sweep are ``E7M0 standard`` and
``E7M0 uniform``; in a sweep of one regime its arm is ``E7M0``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from altgrad_cli.config.loading import as_word, flat, resolve
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.sweeps.arms import Arm, text_words
from altgrad_cli.sweeps.comparison import seed_groups
from altgrad_cli.sweeps.format_verdicts.families import text_of
from altgrad_cli.sweeps.tuning import without_seed

_NEVER_SAID = {"fp8_format", "seed", "learning_rate", "data.path", "data.hub", "data.text_field"}
"""Said apart, or no name: where only the rate tells two arms apart, they keep their own names."""


def run_labels(arms: Iterable[Arm], texts: bool = True) -> dict[str, str]:
    """Name of a run -> its label, the same for all seeds of an arm; of controls and formats only.

    With several texts a label ends in its own (``E7M0, law``), unless ``texts`` is False. Where one
    label would stand for two arms, they keep their names.
    """
    groups = [(group[0], group) for group in seed_groups(a for a in arms if a.kind in ("control", "format"))]
    first = [arm for arm, _ in groups]
    formats = [arm for arm in first if arm.kind == "format"]
    settings = _varied(formats)
    words = text_words(list(dict.fromkeys(map(text_of, formats or first))))
    labels: dict[str, str] = {}
    for arm in first:
        named = [arm.format, *settings[arm.name]] if arm.kind == "format" else [arm.config.precision.regime]
        text = f", {words.get(text_of(arm), text_of(arm))}" if texts and len(words) > 1 else ""
        labels[arm.name] = " ".join(named) + text
    alone = {label for label, count in Counter(labels.values()).items() if count == 1 or not texts}
    return {
        arm.name: label if (label := labels[leader.name]) in alone else without_seed(arm)
        for leader, group in groups
        for arm in group
    }


def _varied(arms: Sequence[Arm]) -> Mapping[str, list[str]]:
    """Name of an arm -> the words of settings that vary; of defaults none but the regime."""
    configs = {arm.name: flat(resolve(arm.config)) for arm in arms}
    usual = flat(resolve(TrainConfig()))
    keys = dict.fromkeys(key for config in configs.values() for key in config if key not in _NEVER_SAID)
    varied = [key for key in keys if len({repr(config.get(key)) for config in configs.values()}) > 1]
    return {
        name: [
            _word(key, config.get(key))
            for key in varied
            if key == "precision.regime" or config.get(key) != usual.get(key)
        ]
        for name, config in configs.items()
    }


def _word(key: str, value: object) -> str:
    """``standard``, ``hadamard 16``, ``no use shadow``, ``stochastic gradients``."""
    name = key.rsplit(".", 1)[-1].replace("_", " ")
    if value is None or value is False:
        return f"no {name}"
    if value is True:
        return name
    return value.replace("_", " ") if isinstance(value, str) else f"{name} {as_word(value)}"
