"""One training run: configuration in, events out; and the study's public names for it in one place.

    engine                       the run: ``train(config) -> Iterator[Event]``
    events                       what a run says
    state, step, update          the parts of a step
    schedule, streams            the learning rate at a step; the private random streams
    passes                       forward and backward pass, eager and as one compiled graph
    measuring                    from raw counts to named metrics
    monitors, watch              what is watched, and what is done about trouble
    snapshot, archive            the state as plain values, and what of it is kept when
    tracing, trace_record, origin  a step tensor by tensor, and what was not finite first
    faults                       how failure is rehearsed
    describe, environment, allocator  what the run is, and what its bits may depend on

A name is imported when it is first asked for: reading a configuration costs no torch, and names of a higher
room (``experiments.study_api``) can be found here at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from altgrad_cli.reexports import reexports

if TYPE_CHECKING:
    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.runs.study_api import (
        DiagnosticSnapshot,
        ExperimentResult,
        FormatExperimentRunner,
        run_format_experiment,
    )
    from altgrad_cli.training.engine import train

_HOME = {
    "TrainConfig": "config.run",
    "train": "training.engine",
    "DiagnosticSnapshot": "runs.study_api",
    "ExperimentResult": "runs.study_api",
    "FormatExperimentRunner": "runs.study_api",
    "run_format_experiment": "runs.study_api",
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

__getattr__, __dir__ = reexports(__name__, _HOME)
