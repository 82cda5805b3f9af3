"""Reads ``[CONFIG] [key=value ...]``, the arguments that `train` and `sweep` share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from altgrad_cli.errors import UsageError


def _repair(words: Sequence[str]) -> str:
    """What was probably meant by several words without ``=``."""
    from altgrad_cli.config.coercion import dotted_keys
    from altgrad_cli.config.run import TrainConfig

    keys = dotted_keys(TrainConfig)
    for word, following in pairwise(words):
        if word in keys:
            return f"did you mean {word}={following}?"
    return f"give one of them; a key takes its value after '=', for example {words[0]} max_steps=100"


def split_config_and_overrides(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration (the argument without ``=``, None when there is none) and the overrides, in order."""
    configs = [argument for argument in arguments if "=" not in argument]
    if len(configs) > 1:
        raise UsageError(
            f"one configuration is expected, not {len(configs)}: {', '.join(configs)}",
            allowed="[CONFIG] [key=value ...]",
            hint=_repair(configs),
        )
    return (configs[0] if configs else None), [argument for argument in arguments if "=" in argument]
