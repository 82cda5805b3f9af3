"""What a checkpoint holds, part by part; and its plain form, in which it lies in the file.

A sealed file may still be a forged one. ``Checkpoint.from_plain`` looks at every part once, so that nothing
behind it has to ask what type a part is. Keys that it does not know may stand beside those that it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from altgrad_cli.errors import CheckpointError

Scalar = str | int | float | bool | None
Phase = Literal["state", "forward", "backward", "optimizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceRecord:
    """One tensor of a step. Non-finite values enter ``nonfinite`` and nothing else."""

    phase: Phase
    module: str
    role: str
    """A role of design (``weights``, ..., ``optimizer_state``), or ``output``, ``output_gradient``,
    ``weight_gradient``, ``loss``, ``amax_history``."""
    part: str = ""
    """``input`` or ``rounded`` of an operand; the slot of the optimizer state."""
    amax: float
    mean: float
    nonfinite: int
    hash: str
    index: int | None = None
    """Flat index of the first non-finite element."""
    value: float | None = None
    """That element."""
    before: float | None = None
    """What was rounded to it, where the record is a rounded operand."""
    rank: int | None = None
    """Which rank of a run on several had that element; None where all had it, or there was one."""
    scale: float | None = None
    format: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StruckFault:
    """A planted fault that was carried out."""

    injection: str
    step: int
    module: str | None
    role: str
    index: int | None
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Injections:
    """Planted faults."""

    planned: tuple[str, ...]
    struck: tuple[StruckFault, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedFailure:
    """What the run itself saw when it captured its state."""

    kind: str = field(metadata={"key": "class"})
    step: int
    trigger: str | None = None
    loss: float | None = None
    stall_collapsed_at: int | None = None
    stall_detected_at: int | None = None


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight on its grid; ``codes`` is None where the grid has no code for one of its values."""

    codes: Tensor | None
    scale: float | Tensor
    """A number where one scale serves the whole tensor, else one a block."""
    format: str


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One role of one layer: its format, the scale of the next pass, the amax history behind it."""

    format: str
    description: str
    scale: float | Tensor | None
    history: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class LayerQuantizers:
    """The quantizers of one layer, by role."""

    name: str
    recipe: str
    roles: Mapping[str, Quantizer]


@dataclass(frozen=True, slots=True)
class RecordedCallValues:
    """One call of a model in a loop that altgrad does not know: nests of tensors and plain values."""

    args: object
    kwargs: Mapping[str, object]
    stream: Tensor
    """Of torch's default random numbers, before the call."""
    gradients: tuple[Tensor | None, ...]
    """That came back to each tensor of the output."""


@dataclass(frozen=True, slots=True)
class OptimizerGroup:
    """The parameters of one group of an optimizer, by name, and its options."""

    names: tuple[str, ...]
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ObservedLoop:
    """What of an observed loop its configuration does not say."""

    groups: tuple[OptimizerGroup, ...]
    kinds: Mapping[str, str]
    """What each layer is."""
    untrained: Mapping[str, Tensor]
    """The parameters that take no gradient."""


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """Inputs and targets, of text token ids, (batch, block) each; and where in the corpus they lie."""

    x: Tensor
    y: Tensor
    offsets: tuple[int, ...]
    calls: tuple[RecordedCallValues, ...] | None = None
    """Of an observed loop: the model's calls in the step."""


@dataclass(frozen=True, slots=True)
class MonitorState:
    """What the monitors remember; each watcher knows its own part."""

    watchers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    history: tuple[Mapping[str, Scalar], ...] = ()
    """The recorded scalars of the last steps, oldest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The state of a run between two steps, and what an anomaly adds to it."""

    kind: str
    step: int
    """Steps taken."""
    adam_step: int
    config: Mapping[str, object]
    """The resolved configuration; ``config.loading`` reads and checks it."""
    config_hash: str
    init_hash: str
    format: str
    formats: tuple[tuple[int, str], ...]
    weights: Mapping[str, Tensor]
    stored_weights: Mapping[str, StoredWeight]
    optimizer: Mapping[str, Mapping[str, Tensor]]
    quantizers: tuple[LayerQuantizers, ...]
    streams: Mapping[str, Tensor]
    monitors: MonitorState
    environment: Mapping[str, Scalar]
    metadata: Mapping[str, object] = field(metadata={"key": "circumstances"})
    """When, where and how it was written; no part of its content hash."""
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    observed: ObservedLoop | None = None
    corpus: Mapping[str, Scalar] = field(default_factory=dict)
    injections: Injections = Injections((), ())
    failure: RecordedFailure | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    batch: RecordedBatch | None = None
    gradient: Mapping[str, Tensor] | None = None
    trace: tuple[TraceRecord, ...] | None = None
    history: tuple[Mapping[str, Scalar], ...] | None = None

    @classmethod
    def from_plain(cls, payload: Mapping[str, object], where: str) -> Checkpoint:
        """The checkpoint in a file's plain values.

        Raises:
            CheckpointError: a part is missing or of another type; it is named.
        """
        try:
            checkpoint: Checkpoint = _read(cls, payload, "")
        except ValueError as error:
            raise CheckpointError(f"the checkpoint lacks a part of the state: {error}", where=where) from None
        return checkpoint


def to_plain(value: object) -> Any:
    """A tree of dataclasses as dictionaries; a field's name is its key unless its metadata says another.

    A ``merged`` field's own keys stand beside the others; its metadata says which where it is None.
    """
    if is_dataclass(value):
        plain: dict[str, object] = {}
        for part in fields(value):
            item = to_plain(getattr(value, part.name))
            merged = part.metadata.get("merged")
            plain |= {part.metadata.get("key", part.name): item} if merged is None else item or merged
        return plain
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


@cache
def _parts(cls: type) -> tuple[tuple[str, str, object, bool], ...]:
    """(name, key, type, whether it must be there) of each field."""
    hints = get_type_hints(cls)
    return tuple(
        (part.name, part.metadata.get("key", part.name), hints[part.name], _required(part))
        for part in fields(cls)
    )


def _required(part: Field[object]) -> bool:
    return part.default is MISSING and part.default_factory is MISSING


def _read(hint: Any, value: object, path: str) -> Any:
    """``value`` as ``hint`` says; a ValueError names the place at ``path`` that does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _read_one_of(arguments, value, path)
    if isinstance(hint, type) and is_dataclass(hint):
        return _read_record(hint, _mapping(value, path), path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _misfit(value, path)
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) != len(value):
            raise _misfit(value, path)
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_read(kind, item, f"{path}{number}.") for number, (kind, item) in pairs)
    if origin is Mapping:
        return {
            key: _read(arguments[1], item, f"{path}{key}.") for key, item in _mapping(value, path).items()
        }
    if hint is object or (origin is Literal and value in arguments):
        return value
    if origin is Literal or (isinstance(value, bool) and hint is not bool):
        raise _misfit(value, path)
    if not isinstance(value, (int, float) if hint is float else hint):
        raise _misfit(value, path)
    return value


def _read_one_of(options: Iterable[object], value: object, path: str) -> object:
    if value is None and NoneType in options:
        return None
    kinds = [kind for kind in options if kind is not NoneType]
    if len(kinds) == 1:
        return _read(kinds[0], value, path)
    if type(value) not in kinds:
        raise _misfit(value, path)
    return value


def _read_record(cls: type, value: Mapping[str, object], path: str) -> object:
    read = {}
    for name, key, hint, required in _parts(cls):
        if key in value:
            read[name] = _read(hint, value[key], f"{path}{key}.")
        elif required:
            raise ValueError(f"{path}{key} is missing")
    return cls(**read)


def _mapping(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _misfit(value, path)
    return value


def _misfit(value: object, path: str) -> ValueError:
    return ValueError(f"{path.rstrip('.') or 'the payload'} is a {type(value).__name__}")
