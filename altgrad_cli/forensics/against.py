"""Another run at the same step: where the two still agreed and where they parted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.checkpoints.payload import Scalar
from altgrad_cli.errors import UsageError
from altgrad_cli.runs.record import read_run

_PARTED = 0.01
"""Relative difference in loss from which two runs count as parted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One metric of both runs at the same step."""

    metric: str
    here: Scalar
    control: float


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


def compare_with(run: Path, history: Sequence[Mapping[str, Scalar]], step: int, seed: object) -> Comparison:
    """The run in the folder ``run`` beside the diagnosed one.

    Args:
        history: recorded scalars of the diagnosed run, one mapping a step.
        step: the step to compare at; the last one before it that both recorded, where it is absent.
        seed: the diagnosed run's.

    Raises:
        UsageError: there is no log, it is damaged, or it holds no steps.
    """
    control = read_run(run, layer_metrics=())
    if not len(control.steps):
        raise UsageError("the run to compare with has no steps", where=str(run))
    loss = control.series("loss")
    mine = {number: entry for entry in history if isinstance(number := entry.get("step"), int)}
    shared = sorted(mine.keys() & set(control.steps.tolist()))
    at = max((number for number in shared if number <= step), default=None)
    return Comparison(
        run=str(run),
        config={
            "fp8_format": control.config.get("fp8_format"),
            "regime": control.regime,
            "seed": control.seed,
        },
        same_seed=control.seed == seed,
        step=at,
        metrics=()
        if at is None
        else tuple(
            Pair(name, value, other)
            for name, value in mine[at].items()
            if (other := control.series(name).at(at)) is not None
        ),
        parted_at=next((n for n in shared if _parted(mine[n].get("loss"), loss.at(n))), None),
        control_at_failure=loss.at(step),
    )


def _parted(loss: Scalar, other: float | None) -> bool:
    if not isinstance(loss, int | float) or other is None:
        return False
    return not math.isfinite(loss) or abs(loss - other) > _PARTED * abs(other)
