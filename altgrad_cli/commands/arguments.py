"""The arguments that commands share: ``[CONFIG] [key=value ...]``, and what the shell offers after a TAB.

Bash takes ``key=value`` apart at the ``=``, other shells do not; both are answered. What does not begin with
the incomplete word is left out by Typer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from altgrad_cli.errors import UsageError


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


def named_subject(overrides: Sequence[str]) -> str | None:
    """What ``subject=`` is set to on the command line: the only code that a command loads; or None."""
    pairs = (override.partition("=") for override in overrides)
    return next((value.strip() for key, _, value in reversed(list(pairs)) if key.strip() == "subject"), None)


def _repair(words: Sequence[str]) -> str:
    """What was probably meant by several words without ``=``."""
    from altgrad_cli.config.coercion import dotted_keys
    from altgrad_cli.config.run import TrainConfig

    keys = dotted_keys(TrainConfig)
    for word, following in pairwise(words):
        if word in keys:
            return f"did you mean {word}={following}?"
    return f"give one of them; a key takes its value after '=', for example {words[0]} max_steps=100"


def complete_arguments(ctx: typer.Context, incomplete: str) -> list[str]:
    """For ``[CONFIG] [key=value ...]``: configs and keys (with their defaults), or the values of a key."""
    from altgrad_cli.config.loading import shipped_configs

    before = [str(word) for word in ctx.params.get("arguments") or ()]
    if before[-1:] == ["="]:
        del before[-1]
    defaults = _defaults()
    if before and before[-1] in defaults:  # bash, behind the "="
        return _values(before[-1], incomplete)
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={word}" for word in _values(key, value)]
    return [*shipped_configs(), *(f"{key}={default}" for key, default in defaults.items())]


def complete_axis() -> list[str]:
    """For ``--set KEY=A,B``: the keys, with every value that there is to choose from."""
    return [f"{key}={','.join(_values(key, ''))}" for key in _defaults()]


def complete_rule(incomplete: str) -> list[str]:
    """Update rules, plain and rounded stochastically; behind a comma, the next of a list."""
    from altgrad_cli.config.update_rules import RULES
    from altgrad_cli.sweeps.specification import ROUNDED_STOCHASTICALLY

    earlier, comma, _ = incomplete.rpartition(",")
    return [f"{earlier}{comma}{each}{end}" for each in RULES for end in ("", ROUNDED_STOCHASTICALLY)]


def complete_format(incomplete: str) -> list[str]:
    """Format names, in small letters where those are typed; behind a comma, the next of a list."""
    from altgrad_cli.formats.names import FORMAT_REGISTRY

    earlier, comma, name = incomplete.rpartition(",")
    return [f"{earlier}{comma}{each.lower() if name.islower() else each}" for each in FORMAT_REGISTRY]


def _defaults() -> dict[str, str]:
    from altgrad_cli.config.loading import as_word, flat, resolve
    from altgrad_cli.config.run import TrainConfig

    return {key: as_word(value).replace(" ", "") for key, value in flat(resolve(TrainConfig())).items()}


def _values(key: str, incomplete: str) -> list[str]:
    """What a key can be set to, where that is a choice; else its default."""
    from altgrad_cli.config.coercion import field_types
    from altgrad_cli.config.run import TrainConfig

    if key == "fp8_format":
        return complete_format(incomplete)
    hint: Any = TrainConfig
    for part in key.split("."):
        hint = field_types(hint).get(part) if dataclasses.is_dataclass(hint) else None  # type: ignore[arg-type]
    if hint is bool:
        return ["true", "false"]
    choices = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
    default = _defaults().get(key)
    return [str(word) for each in choices for word in get_args(each)] or ([default] if default else [])


ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="A shipped config (see altgrad configs) or a file, and overrides.",
        autocompletion=complete_arguments,
    ),
]
