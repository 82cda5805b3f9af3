"""One training run: configuration in, events out; and the study's public names for it in one place.

    config, config_loading, coercion, field_types, yaml_tree   what a run depends on, and how it is read
    engine                                                     the run: ``train(config) -> Iterator[Event]``
    events                                                     what a run says
    state, step, update, schedule, adamw, flat, streams        the parts of a step
    measure, measure_codes, measure_update, monitors           what is watched
    checkpoint, snapshot, archive, retention, trace, faults    what is kept, and how failure is rehearsed

A name is imported when it is first asked for: reading a configuration costs no torch, and names of a higher
room (``experiments.study_api``) can be found here at all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altgrad_cli.experiments.study_api import (
        DiagnosticSnapshot,
        ExperimentResult,
        FormatExperimentRunner,
        run_format_experiment,
    )
    from altgrad_cli.training.config import TrainConfig
    from altgrad_cli.training.engine import train

_HOME = {
    "TrainConfig": "training.config",
    "train": "training.engine",
    "DiagnosticSnapshot": "experiments.study_api",
    "ExperimentResult": "experiments.study_api",
    "FormatExperimentRunner": "experiments.study_api",
    "run_format_experiment": "experiments.study_api",
}
"""Public name -> the module of altgrad_cli that defines it."""

__all__ = [
    "DiagnosticSnapshot",
    "ExperimentResult",
    "FormatExperimentRunner",
    "TrainConfig",
    "run_format_experiment",
    "train",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"altgrad_cli.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
