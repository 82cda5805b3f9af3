"""Rules that many fields share: a range with its ends, a format's name. A broken one names its key."""

from __future__ import annotations

from collections.abc import Mapping

from altgrad_cli.errors import ConfigError, FormatError
from altgrad_cli.formats import parse_format

FLOAT32_WORDS = ("fp32", "float32", "none")
"""What stands in place of a format where nothing is to be rounded."""

FLOAT32_RANGE = (2.0**-126, (2 - 2.0**-23) * 2.0**127)
"""The smallest normal and the largest number of float32."""


def require(condition: bool, where: str, value: object, allowed: str, hint: str | None = None) -> None:
    """Raises ConfigError for the key ``where`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{where} = {value!r} is not allowed", where=where, allowed=allowed, hint=hint)


def check_whole_numbers(section: object, prefix: str, limits: Mapping[str, tuple[int, int]]) -> None:
    """Raises ConfigError for a field of ``section`` outside its limits, both ends allowed.

    The upper ends are far above what is sensible and below what torch, the machine or a lifetime can carry:
    such a value is a slip, and is refused before anything is made of that size.
    """
    for name, (low, high) in limits.items():
        value = getattr(section, name)
        if (
            not low <= value <= high
        ):  # asked first: of thousands of configurations the words would take seconds
            require(False, f"{prefix}{name}", value, f"{low:,} to {high:,}")


def check_positive(where: str, value: float, alternative: str = "") -> None:
    """Raises ConfigError for the key ``where`` unless it is positive in float32, in which it is used.

    ``alternative`` is what else the key may hold, for the message; it was looked for before.
    """
    low, high = FLOAT32_RANGE
    require(low <= value <= high, where, value, f"a positive number, {low:.3g} to {high:.3g}{alternative}")


def check_format(name: str, key: str, *, unrounded: bool = False) -> None:
    """Raises FormatError for what is no format's name, nor where allowed a word for no rounding."""
    if unrounded and name.lower() in FLOAT32_WORDS:
        return
    try:
        parse_format(name)
    except FormatError as error:
        error.where = key
        raise
