"""Reads ``[CONFIG] [key=value ...]``, the arguments that `train` and `sweep` share."""

from __future__ import annotations

from collections.abc import Sequence

from altgrad_cli.errors import UsageError


def split_config_and_overrides(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration (the argument without ``=``, None when there is none) and the overrides, in order."""
    configs = [argument for argument in arguments if "=" not in argument]
    if len(configs) > 1:
        raise UsageError(
            f"one configuration is expected, not {len(configs)}: {', '.join(configs)}",
            allowed="[CONFIG] [key=value ...]",
            hint=f"did you mean {configs[1]}=...?",
        )
    return (configs[0] if configs else None), [argument for argument in arguments if "=" in argument]
