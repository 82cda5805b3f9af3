"""Single values: what a text means for a declared type, and what each type takes, in words."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_BOOL_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@cache
def field_types(cls: Any) -> dict[str, Any]:
    """Name -> resolved type of every field of a dataclass that can be set, in order of declaration."""
    resolved = get_type_hints(cls)
    return {item.name: resolved[item.name] for item in dataclasses.fields(cls) if item.init}


def describe(hint: Any) -> str:
    """What a field of this type takes, in words."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        words = [describe(member) for member in members if member is not type(None)]
        return " or ".join(words) + (", or null" if type(None) in members else "")
    if origin is Literal:
        return ", ".join(str(member) for member in members)
    if origin is tuple and not (len(members) == 2 and members[1] is Ellipsis):
        return f"{len(members)} values: {', '.join(describe(member) for member in members)}"
    if origin in (tuple, list):
        return f"a list, each: {describe(members[0])}"
    if origin is not None:
        return "a section of names and values"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"a section with the keys {', '.join(field_types(hint))}"
    return _WORDS.get(hint, str(hint))


def _read_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _BOOL_WORDS.get(str(value).strip().lower())


def _read_int(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    try:
        return int(value)
    except ValueError:
        number = _read_float(value)  # 1e3 is a whole number too
        return int(number) if number is not None and number.is_integer() else None


def _read_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read_text(value: Any) -> str | None:
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        return None
    return str(value)


SCALAR_READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_text,
}
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
}
