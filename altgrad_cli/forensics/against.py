"""Another run at the same step: where the two still agreed and where they parted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altgrad_cli.errors import DataError
from altgrad_cli.runs.folder import EVENTS
from altgrad_cli.training.events import from_json_value

_PARTED = 0.01
"""Relative difference in loss from which two runs count as parted."""
_LINE_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One metric of both runs at the same step."""

    metric: str
    here: object
    control: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Another run beside the diagnosed one."""

    run: str
    config: Mapping[str, object] | None
    """Its format, regime and seed."""
    same_seed: bool
    step: int | None
    """The last step that both recorded, up to the one at hand."""
    metrics: tuple[Pair, ...]
    parted_at: int | None
    """The first shared step at which the losses differ by more than one percent."""
    control_at_failure: float | None
    """Its loss at the step at hand."""


def read_run(run: Path) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """(the first event, one mapping of scalars per step) of a run's log.

    Raises:
        DataError: there is no readable log.
    """
    log = run / EVENTS
    started: Mapping[str, Any] = {}
    steps: list[dict[str, Any]] = []
    try:
        with log.open(encoding="utf-8") as file:
            while line := file.readline(_LINE_LIMIT):
                event = _parsed(line)
                if event.get("event") == "run_started" and not started:
                    started = event
                elif event.get("event") == "step":
                    metrics = event.get("metrics")
                    steps.append(
                        {"step": event.get("step"), **(metrics if isinstance(metrics, dict) else {})}
                    )
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text"
        raise DataError(
            f"the run to compare with cannot be read: {reason}",
            where=str(log),
            hint="give a run's folder, the one that holds events.jsonl",
        ) from None
    if not steps:
        raise DataError("the run to compare with has no steps", where=str(log))
    return started, steps


def _parsed(line: str) -> Mapping[str, Any]:
    try:
        event = from_json_value(json.loads(line))
    except (ValueError, RecursionError):
        return {}  # the last line of a run that was killed
    return event if isinstance(event, dict) else {}


def compare_with(
    run: Path, history: Sequence[Mapping[str, Any]], step: int, config: Mapping[str, Any]
) -> Comparison:
    """The run in the folder ``run`` beside the diagnosed one.

    Args:
        history: recorded scalars of the diagnosed run.
        step: the step to compare at; the last one that both recorded, where it is absent.
        config: the diagnosed run's resolved configuration.
    """
    started, others = read_run(run)
    control = {entry["step"]: entry for entry in others}
    mine = {entry.get("step"): entry for entry in history}
    shared = sorted(number for number in mine if number in control and isinstance(number, int))
    at = max((number for number in shared if number <= step), default=None)
    values: list[Pair] = []
    if at is not None:
        names = [name for name in mine[at] if name != "step" and name in control[at]]
        values = [Pair(name, mine[at][name], control[at][name]) for name in names]
    other_config = started.get("config")
    return Comparison(
        run=str(run),
        config=None if not isinstance(other_config, dict) else _essence(other_config),
        same_seed=isinstance(other_config, dict) and other_config.get("seed") == config.get("seed"),
        step=at,
        metrics=tuple(values),
        parted_at=_parted(mine, control, shared),
        control_at_failure=control.get(step, {}).get("loss"),
    )


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    precision = config.get("precision")
    regime = precision.get("regime") if isinstance(precision, dict) else None
    return {"fp8_format": config.get("fp8_format"), "regime": regime, "seed": config.get("seed")}


def _parted(
    mine: Mapping[Any, Mapping[str, Any]], control: Mapping[Any, Mapping[str, Any]], shared: Sequence[int]
) -> int | None:
    """The first shared step at which the losses differ by more than one percent."""
    for number in shared:
        one, other = mine[number].get("loss"), control[number].get("loss")
        if not isinstance(one, int | float) or not isinstance(other, int | float):
            continue
        if not math.isfinite(one) or abs(one - other) > _PARTED * abs(other):
            return number
    return None
