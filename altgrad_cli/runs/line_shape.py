"""Whether a line of a log is an event whose values may be computed with; what no event holds is damage.

A kind of event and a key that this version does not know are passed over: a later one may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from altgrad_cli.training.events import from_json_value

Test = Callable[[object], bool]
_MOST = 2**63


def is_event(line: object) -> bool:
    """Whether ``line``, as JSON gives it, has the keys of its kind of event, and values of their types."""
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return False
    step = line.get("step")
    return type(step) is int and 0 <= step < _MOST and _has(line, _KEYS.get(line["event"], {}))


def _has(line: Mapping[str, object], keys: Mapping[str, Test]) -> bool:
    return all(
        test(line[name]) if (name := key.removesuffix("?")) in line else key.endswith("?")
        for key, test in keys.items()
    )


def _number(value: object) -> bool:
    """A number, one of the three words for a number that is not finite, or null."""
    if type(value) is int:
        return -_MOST < value < _MOST
    return (
        value is None
        or type(value) is float
        or (type(value) is str and type(from_json_value(value)) is float)
    )


def _one_of(*types: type) -> Test:
    return lambda value: type(value) in types


def _each(test: Test) -> Test:
    return lambda value: type(value) is list and all(map(test, value))


def _values(test: Test) -> Test:
    return lambda value: type(value) is dict and all(map(test, value.values()))


_text, _mapping, _texts = _one_of(str), _one_of(dict), _each(_one_of(str))
_text_or_null = _one_of(str, type(None))
_count = _one_of(int)
_counts = _each(_each(_count))


def _pair(value: object) -> bool:
    return type(value) is list and list(map(type, value)) == [int, str]


_KEYS: dict[str, dict[str, Test]] = {
    "run_started": {"config": _mapping, "layers": _texts, "injections?": _texts},
    "step": {
        "metrics": _values(_number),
        "layers": _values(_each(_number)),
        "committed": _one_of(bool),
        "histograms?": _values(_counts),
    },
    "evaluated": {
        "validation_loss": _number,
        "validation_loss_master": _number,
        "scores?": _values(_number),
    },
    "alert": {"name": _text, "metric": _text, "layer": _text_or_null, "state": _text},
    "intervention": {"name": _text, "details": _mapping},
    "checkpoint": {"path": _text_or_null, "reason": _text},
    "run_ended": {
        "outcome": _text,
        "reason": _text,
        "collapse": _one_of(dict, type(None)),
        "formats": _each(_pair),
    },
}
"""Kind of event -> the keys that are computed with; one that older logs do without ends in ``?``."""
