"""What a checkpoint's payload looks like, part by part: a sealed file may still be a forged one.

Checked once when the file is opened, so that nothing behind it has to ask what type a part is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from altgrad_cli.errors import CheckpointError

Kind = type | None
"""A type of a leaf; None stands for null. ``int`` is no bool, and ``float`` takes an int too."""


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose items all have one shape."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Values:
    """A mapping from names to values of one shape."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys; others may stand beside them."""

    required: Mapping[str, Any]
    optional: Mapping[str, Any]


def record(optional: Mapping[str, Any] | None = None, **required: Any) -> Record:
    """A ``Record`` of its required keys and the optional ones."""
    return Record(required, optional or {})


NUMBER = (float, None)
SCALAR = (bool, int, float, str, None)
PLAIN_LIST = Each((*SCALAR, Values(SCALAR)))

TRACE_RECORD = record(
    phase=str,
    module=str,
    role=str,
    part=str,
    amax=float,
    mean=float,
    nonfinite=int,
    hash=str,
    index=(int, None),
    value=NUMBER,
    before=NUMBER,
    scale=NUMBER,
    format=(str, None),
)
STRUCK = record(
    injection=str, step=int, module=(str, None), role=str, index=(int, None), before=NUMBER, after=NUMBER
)
QUANTIZER = record(
    name=str,
    recipe=str,
    roles=Values(record(format=str, description=str, scale=NUMBER, history=(Each(float), None))),
)
HISTORY = Each(Values(SCALAR))

PAYLOAD = record(
    {
        "failure": Values((*SCALAR, PLAIN_LIST)),
        "missing": Values(str),
        "batch": record(x=Tensor, y=Tensor, offsets=Each(int)),
        "gradient": Values(Tensor),
        "trace": Each(TRACE_RECORD),
        "history": HISTORY,
        "corpus": Values(SCALAR),
        "injections": record(planned=Each(str), struck=Each(STRUCK)),
    },
    kind=str,
    step=int,
    adam_step=int,
    config=dict,
    config_hash=str,
    init_hash=str,
    format=str,
    formats=Each(Each((int, str))),
    weights=Values(Tensor),
    stored_weights=Values(record(codes=(Tensor, None), scale=float, format=str)),
    optimizer=Values(Values(Tensor)),
    quantizers=Each(QUANTIZER),
    streams=Values(Tensor),
    monitors=record({"history": HISTORY, "watchers": Values(dict)}),
    environment=Values(SCALAR),
    circumstances=Values((*SCALAR, PLAIN_LIST)),
)


def check_payload(payload: Any, where: str) -> None:
    """Raises ``CheckpointError`` where ``payload`` is not what a checkpoint holds."""
    wrong = _mismatch(payload, PAYLOAD, "")
    if wrong is not None:
        raise CheckpointError(f"the checkpoint lacks a part of the state: {wrong}", where=where)


def _mismatch(value: Any, shape: Any, path: str) -> str | None:
    """Where ``value`` has another shape, in words; None where it fits."""
    if isinstance(shape, tuple):
        return (
            None if any(_mismatch(value, option, path) is None for option in shape) else _words(value, path)
        )
    if shape is None:
        return None if value is None else _words(value, path)
    if isinstance(shape, Each):
        if not isinstance(value, list):
            return _words(value, path)
        pairs = [(str(number), item, shape.shape) for number, item in enumerate(value)]
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        if isinstance(shape, Values):
            pairs = [(key, item, shape.shape) for key, item in value.items()]
        elif isinstance(shape, Record):
            absent = next((key for key in shape.required if key not in value), None)
            if absent is not None:
                return f"{path}{absent} is missing"
            known = {**shape.optional, **shape.required}
            pairs = [(key, value[key], known[key]) for key in known if key in value]
        else:
            return None if shape is dict else _words(value, path)
    else:
        return None if _is_leaf(value, shape) else _words(value, path)
    found = (_mismatch(item, below, f"{path}{key}.") for key, item, below in pairs)
    return next((wrong for wrong in found if wrong is not None), None)


def _is_leaf(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _words(value: Any, path: str) -> str:
    return f"{path.rstrip('.') or 'the payload'} is a {type(value).__name__}"
