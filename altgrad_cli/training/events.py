"""What a run tells the world: the only output of the engine, and line by line the only truth on disk.

Listeners (log, progress, W&B) read events and cannot change training. In JSON null means not measured and
the strings "NaN", "Infinity", "-Infinity" stand for non-finite values; a missing value is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

Number = float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Base of all events; ``kind`` is the word in the ``event`` key of its line."""

    kind: ClassVar[str] = ""
    step: int
    """Steps taken when it happened; step number n is the n-th update, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(Event):
    """First event of a run and of every resumption."""

    kind: ClassVar[str] = "run_started"
    config: Mapping[str, Any]
    layers: Sequence[str]
    """Names of the linear layers; per-layer values everywhere follow this order."""
    precision: Sequence[Mapping[str, Any]]
    """Format, bias and specials of each role of each layer, in words."""
    init_hash: str
    parameters: int
    corpus: Mapping[str, Any]
    predicted_stall: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    injections: Sequence[str]
    coverage: Mapping[str, Any] | None = None
    """Which share of a forward pass's multiply-adds is rounded, and what is not; None: not counted."""
    resumed_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCompleted(Event):
    """One step: scalars by metric name, and per-layer lists in the order of ``RunStarted.layers``."""

    kind: ClassVar[str] = "step"
    metrics: Mapping[str, Number]
    layers: Mapping[str, Sequence[Number]]
    committed: bool
    """False where the update was dropped because something was not finite."""
    format: str
    """The format under study at this step (it changes with a shift)."""
    histograms: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    """Every ``diagnostic_interval`` steps, per role: a layer's counts by code, the NaN bin last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated(Event):
    """Validation of the deployed (rounded) model, and of the float32 master where one exists."""

    kind: ClassVar[str] = "evaluated"
    validation_loss: Number
    validation_loss_master: Number
    perplexity: Number
    """None where the loss is not one a token."""
    scores: Mapping[str, Number] = field(default_factory=dict)
    """What the subject says of the deployed model beside the loss, by metric: F1 of labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert(Event):
    """A monitored quantity crossed its threshold (``raised``) or came back (``cleared``)."""

    kind: ClassVar[str] = "alert"
    name: str
    metric: str
    layer: str | None
    value: Number
    threshold: Number
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InterventionApplied(Event):
    """An intervention acted, with its measured effect."""

    kind: ClassVar[str] = "intervention"
    name: str
    details: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint lies on disk, or (``path`` null) could not be written, and why."""

    kind: ClassVar[str] = "checkpoint"
    path: str | None
    reason: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded(Event):
    """Last event of a run that was not interrupted."""

    kind: ClassVar[str] = "run_ended"
    outcome: str
    """``completed``, ``collapsed`` or ``plateau``."""
    reason: str
    collapse: Mapping[str, Any] | None
    formats: Sequence[tuple[int, str]]
    """(step, format) from which each format was in force: the first is the run's initial format."""


EVENTS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        RunStarted,
        StepCompleted,
        Evaluated,
        Alert,
        InterventionApplied,
        CheckpointSaved,
        RunEnded,
    )
}


def to_json_value(value: Any) -> Any:
    """``value`` with non-finite floats as strings, mappings and sequences as dicts and lists."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return value


_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def from_json_value(value: Any) -> Any:
    """The inverse of ``to_json_value`` for numbers; other strings stay strings."""
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if isinstance(value, dict):
        return {key: from_json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    return value


def event_to_json(event: Event) -> dict[str, Any]:
    """The line of ``events.jsonl`` for ``event``."""
    body = {item.name: to_json_value(getattr(event, item.name)) for item in fields(event)}
    return {"event": event.kind, **body}


def event_from_json(line: Mapping[str, Any]) -> Event:
    """The event of one parsed line; keys of a later version are passed over, absent ones are None."""
    kind = EVENTS[line["event"]]
    optional = {item.name for item in fields(kind) if item.default is None or item.default_factory is dict}
    known = [item.name for item in fields(kind) if item.name in line or item.name not in optional]
    return kind(**{name: from_json_value(line.get(name)) for name in known})
