"""Builds any tree of frozen dataclasses from plain values, strictly: the declared type decides.

A text becomes what its field declares (``6e-4`` a float, ``1_000`` and ``1e3`` an int, ``null`` None, ``a,b``
a tuple); a value that already has its type passes. An unknown key, a wrong type or a broken rule is a
ConfigError that names the file and line, the key, what is allowed and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from altgrad_cli.config.yaml_tree import COMMAND_LINE, ConfigTree, is_null_word, parse_flow
from altgrad_cli.errors import ConfigError, UsageError, nearest

T = TypeVar("T")
Hint: TypeAlias = Any
"""A type as it is declared: a class, a union, a ``Literal``, a tuple of them; Python has no type for that."""


def build(cls: type[T], tree: ConfigTree, onto: T | None = None) -> T:
    """An instance of the dataclass ``cls`` from ``tree``; what is absent is as in ``onto`` or the default."""
    return cast(T, _Builder(tree, dotted_keys(cls)).section(cls, tree.values, "", onto))


def to_plain(value: object) -> object:
    """The inverse of ``build``: dataclasses as dicts in field order, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def field_types(cls: Hint) -> dict[str, Hint]:
    """Name -> resolved type of every field of a dataclass that can be set, in order of declaration."""
    resolved = get_type_hints(cls)
    return {item.name: resolved[item.name] for item in dataclasses.fields(cls) if item.init}


def dotted_keys(cls: Hint) -> tuple[str, ...]:
    """Every section and every key, ``section.key`` for nested ones, in order of declaration."""
    keys: list[str] = []
    for name, hint in field_types(cls).items():
        keys.append(name)
        if dataclasses.is_dataclass(hint):
            keys += [f"{name}.{below}" for below in dotted_keys(hint)]
    return tuple(keys)


def suggestion(key: str, known: Iterable[str]) -> str | None:
    """The known dotted key that ``key`` was probably meant to be: ``lr``, ``warmup`` and typos are found."""
    leaf = key.rpartition(".")[2].lower()
    best, best_score = None, 0.6
    for candidate in known:
        name = candidate.rpartition(".")[2]
        if leaf == "".join(word[:1] for word in name.split("_")) and "_" in name:
            score = 0.95  # its initials
        else:
            whole, last = SequenceMatcher(None, key.lower(), candidate), SequenceMatcher(None, leaf, name)
            score = max(whole.ratio(), last.ratio() - 0.01)
        if score > best_score:
            best, best_score = candidate, score
    return best


class _Builder:
    def __init__(self, tree: ConfigTree, known: tuple[str, ...]) -> None:
        self.tree = tree
        self.known = known

    def section(self, cls: Hint, values: Mapping[str, object], prefix: str, onto: object = None) -> object:
        hints = field_types(cls)
        arguments: dict[str, object] = {}
        for name, value in values.items():
            if name not in hints:
                raise self._unknown(name, hints, prefix)
            below = getattr(onto, name, None)
            arguments[name] = self.value(value, hints[name], f"{prefix}{name}", below)
        for item in dataclasses.fields(cls) if onto is None else ():
            has_default = item.default is not item.default_factory  # of which one is always MISSING
            if item.name in hints and item.name not in arguments and not has_default:
                where = self.tree.where(prefix.rstrip(".")) if prefix else None
                raise ConfigError(f"the key {prefix}{item.name} is missing", where=where)
        try:
            return cls(**arguments) if onto is None else dataclasses.replace(cast(Hint, onto), **arguments)
        except UsageError as error:
            error.where = self._places(error.where or prefix.rstrip("."), hints, prefix)
            raise

    def value(self, value: object, hint: Any, key: str, onto: object = None) -> object:
        origin, members = get_origin(hint), get_args(hint)
        if dataclasses.is_dataclass(hint):
            return self._nested(value, hint, key, onto)
        if origin in (Union, types.UnionType):  # of a type and None
            try:
                return None if value is None or is_null_word(value) else self.value(value, members[0], key)
            except ConfigError as error:
                if error.allowed == describe(members[0]):
                    error.allowed = describe(hint)
                raise
        if origin is Literal:
            return self._word(value, members, hint, key)
        if origin is tuple:
            return self._tuple(value, members, hint, key)
        if isinstance(value, dict):
            raise self._refusal(value, hint, key, f"{key} is a single value, not a section")
        read = None if isinstance(value, list | tuple) else _READERS[hint](value)
        if read is None:
            raise self._refusal(value, hint, key)
        return read

    def _nested(self, value: object, hint: Hint, key: str, onto: object) -> object:
        if value is None or (is_null_word(value) and self.tree.origins.get(key) != COMMAND_LINE):
            value = {}  # a section whose lines are all commented out
        if not isinstance(value, Mapping):
            keys = ", ".join(field_types(hint))
            raise ConfigError(
                f"{key} is a section, not a single value",
                where=self.tree.where(key),
                allowed=f"its keys: {keys}",
                hint=f"for example {key}.{keys.partition(',')[0]}=...",
            )
        return self.section(hint, value, f"{key}.", onto)

    def _word(self, value: object, words: tuple[str, ...], hint: Hint, key: str) -> object:
        for word in words:
            if isinstance(value, str) and value.strip().lower() == word.lower():
                return word
        guess = nearest(str(value), words)
        raise self._refusal(value, hint, key, hint_line=f"did you mean {guess}?" if guess else None)

    def _tuple(self, value: object, members: tuple[Hint, ...], hint: Hint, key: str) -> object:
        if isinstance(value, str):
            text = value.strip()
            if text.startswith(("[", "{")):
                value = parse_flow(text, self.tree.where(key))
            else:
                value = [part.strip() for part in text.split(",")] if text else []
            if isinstance(value, dict):
                value = [value]
        if not isinstance(value, list | tuple):
            raise self._refusal(value, hint, key)
        if members[1:] == (Ellipsis,):
            members = members[:1] * len(value)
        if len(value) != len(members):
            raise self._refusal(value, hint, key, f"{key} has {len(value)} values")
        each = enumerate(zip(value, members, strict=True))
        return tuple(self.value(item, member, f"{key}.{number}") for number, (item, member) in each)

    def _refusal(
        self, value: object, hint: Hint, key: str, message: str | None = None, hint_line: str | None = None
    ) -> ConfigError:
        given = str(value) if isinstance(value, str) else value
        message = message or f"{key} = {given!r} is not allowed"
        return ConfigError(message, where=self.tree.where(key), allowed=describe(hint), hint=hint_line)

    def _unknown(self, name: str, hints: Mapping[str, Hint], prefix: str) -> ConfigError:
        key = f"{prefix}{name}"
        guess = suggestion(key, self.known) or suggestion(name, [f"{prefix}{known}" for known in hints])
        return ConfigError(
            f"unknown key: {key}",
            where=self.tree.where(key),
            allowed=f"the keys of {prefix.rstrip('.') or 'the top level'}: {', '.join(hints)}",
            hint=f"did you mean {guess}?" if guess else None,
        )

    def _places(self, keys: str, hints: Mapping[str, Hint], prefix: str) -> str | None:
        """Where the ``keys`` that a section's own rule names were set, those of the command line first.

        A rule does not know where its section stands in a list, so a key is looked for in the section first.
        """
        own = [
            f"{prefix}{leaf}" if (leaf := key.rpartition(".")[2]) in hints else key
            for key in keys.split(", ")
        ]
        places = [self.tree.where(key) for key in own]
        return ", ".join(sorted(places, key=lambda place: not place.startswith(COMMAND_LINE))) or None


def describe(hint: Any) -> str:
    """What a field of this type takes, in words."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return f"{describe(members[0])}, or null"
    if origin is Literal:
        return ", ".join(members)
    if origin is tuple and members[1:] == (Ellipsis,):
        return f"a list, each: {describe(members[0])}"
    if origin is tuple:
        return f"{len(members)} values: {', '.join(describe(member) for member in members)}"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"a section with the keys {', '.join(field_types(hint))}"
    return _WORDS[hint]


def _read_bool(value: object) -> bool | None:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return value if isinstance(value, bool) else words.get(str(value).strip().lower())


def _read_int(value: object) -> int | None:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            number = _read_float(value)  # 1e3 is a whole number too
            return int(number) if number is not None and number.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read_text(value: object) -> str | None:
    half_a_pair = isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)
    return str(value) if isinstance(value, str) and not half_a_pair else None


_READERS: dict[type, Callable[[object], object]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_text,
}
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
