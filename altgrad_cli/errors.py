"""Every error altgrad raises on purpose, as one tree.

    AltgradError               the program could not do its job            exit 1
    ├── WriteError             a file could not be written: a full disk, a missing right
    └── UsageError             the user can fix it                         exit 2
        ├── ConfigError        a key, a value, a file of the configuration
        ├── FormatError        a number format's name or options
        ├── DataError          a corpus or a tokenizer
        └── CheckpointError    a file that is not a trustworthy checkpoint

A message says what is wrong; ``where`` names the file and key or the layer, ``allowed`` the legal set
and ``hint`` the next step. The command line renders the four parts; in a program of one's own a traceback
shows them, a line each.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AltgradError(Exception):
    """An expected failure, with the parts a reader needs to act on it."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.allowed = allowed
        self.hint = hint

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        """What Python prints below the message of an error that nobody caught."""
        parts = (("where", self.where), ("allowed", self.allowed), ("hint", self.hint))
        return [f"{word}: {text}" for word, text in parts if text is not None]


class WriteError(AltgradError):
    """A file could not be written; what was there before is still there."""


class UsageError(AltgradError):
    """The command, the configuration or the input is wrong; nothing was run."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value breaks a rule."""


class FormatError(UsageError):
    """A number format's name or options break a rule."""


class DataError(UsageError):
    """A corpus or a tokenizer cannot be used."""


class CheckpointError(UsageError):
    """A file is not a checkpoint that can be trusted."""


def check_choice(option: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ``UsageError`` unless the option's ``value`` is one of the ``allowed`` words."""
    known = tuple(allowed)
    if value in known:
        return
    close = nearest(value, known) if isinstance(value, str) else None
    raise UsageError(
        f"{option} = {value!r} is not known",
        allowed=", ".join(known),
        hint=f"did you mean {close!r}?" if close else None,
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to ``word`` (case-insensitive), or None when nothing is close."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None
