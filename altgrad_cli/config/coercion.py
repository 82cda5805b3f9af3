"""Builds any tree of frozen dataclasses from plain values, strictly: the declared type decides.

A text becomes what its field declares (``6e-4`` a float, ``1_000`` an int, ``null`` None, ``a,b`` a tuple);
a value that already has its type passes. An unknown key, a wrong type or a broken rule is a ConfigError
that names the file and line, the key, what is allowed and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from altgrad_cli.config.field_types import SCALAR_READERS, describe, field_types
from altgrad_cli.config.yaml_tree import COMMAND_LINE, ConfigTree, is_null_word, parse_flow
from altgrad_cli.errors import AltgradError, ConfigError, UsageError, nearest

T = TypeVar("T")


def build(cls: type[T], tree: ConfigTree) -> T:
    """An instance of the dataclass ``cls`` from ``tree``; fields that are absent keep their defaults."""
    value: T = _Builder(tree, dotted_keys(cls)).section(cls, tree.values, "")
    return value


def to_plain(value: Any) -> Any:
    """The inverse of ``build``: dataclasses as dicts in field order, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def dotted_keys(cls: Any) -> tuple[str, ...]:
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
            score = max(_similarity(key.lower(), candidate), _similarity(leaf, name) - 0.01)
        if score > best_score:
            best, best_score = candidate, score
    return best


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


class _Builder:
    def __init__(self, tree: ConfigTree, known: tuple[str, ...]) -> None:
        self.tree = tree
        self.known = known

    def section(self, cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
        hints = field_types(cls)
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            key = f"{prefix}{name}"
            if name not in hints:
                raise self._unknown(key, name, hints, prefix)
            arguments[name] = self.value(value, hints[name], key)
        missing = [
            item.name
            for item in dataclasses.fields(cls)
            if item.init
            and item.name not in arguments
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ]
        if missing:
            where = self.tree.where(prefix.rstrip(".")) if prefix else None
            raise ConfigError(f"the key {prefix}{missing[0]} is missing", where=where)
        try:
            return cls(**arguments)
        except UsageError as error:
            self._locate(error, hints, prefix)
            raise

    def value(self, value: Any, hint: Any, key: str) -> Any:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self._nested(value, hint, key)
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(value, hint, key)
        if origin is Literal:
            return self._literal(value, hint, key)
        if origin in (tuple, list):
            return self._sequence(value, hint, key)
        if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
            return self._mapping(value, hint, key)
        read = SCALAR_READERS.get(hint)
        if read is None:
            return value  # Any, or a type this loader has no rule for: the dataclass checks it
        if isinstance(value, dict):
            raise self._refusal(value, hint, key, f"{key} is a single value, not a section")
        result = None if isinstance(value, list | tuple) else read(value)
        if result is None:
            raise self._refusal(value, hint, key)
        return result

    def _nested(self, value: Any, hint: Any, key: str) -> Any:
        if value is None or (is_null_word(value) and self.tree.origins.get(key) != COMMAND_LINE):
            value = {}  # a section whose lines are all commented out
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            keys = list(field_types(hint))
            example = f"for example {key}.{keys[0]}=..." if keys else None
            raise ConfigError(
                f"{key} is a section, not a single value",
                where=self.tree.where(key),
                allowed=f"its keys: {', '.join(keys)}",
                hint=example,
            )
        return self.section(hint, value, f"{key}.")

    def _union(self, value: Any, hint: Any, key: str) -> Any:
        options = get_args(hint)
        if type(None) in options and (value is None or is_null_word(value)):
            return None
        remaining = [option for option in options if option is not type(None)]
        for option in remaining:
            try:
                return self.value(value, option, key)
            except ConfigError as error:
                if error.allowed == describe(option):
                    error.allowed = describe(hint)
                if option is remaining[-1]:
                    raise
        raise AssertionError("a union has members")

    def _literal(self, value: Any, hint: Any, key: str) -> Any:
        words = get_args(hint)
        for word in words:
            if value == word and type(value) is type(word):
                return word
        if isinstance(value, str):
            for word in words:
                if value.strip().lower() == str(word).lower():
                    return word
        guess = nearest(str(value), [str(word) for word in words])
        raise self._refusal(value, hint, key, hint_line=f"did you mean {guess}?" if guess else None)

    def _sequence(self, value: Any, hint: Any, key: str) -> Any:
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
        members = get_args(hint)
        kind = get_origin(hint)
        if kind is list or (len(members) == 2 and members[1] is Ellipsis):
            return kind(self.value(item, members[0], f"{key}.{n}") for n, item in enumerate(value))
        if len(value) != len(members):
            raise self._refusal(value, hint, key, f"{key} has {len(value)} values")
        return tuple(
            self.value(item, member, f"{key}.{n}")
            for n, (item, member) in enumerate(zip(value, members, strict=True))
        )

    def _mapping(self, value: Any, hint: Any, key: str) -> Any:
        if isinstance(value, str) and value.strip().startswith("{"):
            value = parse_flow(value, self.tree.where(key))
        if not isinstance(value, Mapping):
            raise self._refusal(value, hint, key)
        _, member = get_args(hint)
        return {str(name): self.value(item, member, f"{key}.{name}") for name, item in value.items()}

    def _refusal(
        self, value: Any, hint: Any, key: str, message: str | None = None, hint_line: str | None = None
    ) -> ConfigError:
        given = str(value) if isinstance(value, str) else value
        return ConfigError(
            message or f"{key} = {given!r} is not allowed",
            where=self.tree.where(key),
            allowed=describe(hint),
            hint=hint_line,
        )

    def _unknown(self, key: str, name: str, hints: Mapping[str, Any], prefix: str) -> ConfigError:
        guess = suggestion(key, self.known)
        if guess is None:
            guess = suggestion(name, [f"{prefix}{known}" for known in hints])
        return ConfigError(
            f"unknown key: {key}",
            where=self.tree.where(key),
            allowed=f"the keys of {prefix.rstrip('.') or 'the top level'}: {', '.join(hints)}",
            hint=f"did you mean {guess}?" if guess else None,
        )

    def _locate(self, error: AltgradError, hints: Mapping[str, Any], prefix: str) -> None:
        """Turn the keys that a section's own rule names into their places, the command line's first.

        A rule does not know where its section stands in a list, so a key is looked for in the section first.
        """
        keys = [part.strip() for part in (error.where or prefix.rstrip(".")).split(",")]
        own = [f"{prefix}{leaf}" if (leaf := key.rpartition(".")[2]) in hints else key for key in keys]
        own.sort(key=lambda key: not self.tree.where(key).startswith(COMMAND_LINE))
        error.where = ", ".join(self.tree.where(key) for key in own) or None
