"""One training run: configuration in, events out; and the study's public names for it in one place.

    engine                 the run: ``train(config) -> Iterator[Event]``
    events, describe       what a run says, and what it says first
    state, step, update    the parts of a step
    after_step             what follows on it: capture, measures, commit; a shift, the end, an evaluation
    streams                the private random streams
    parallel               one run on several processes
    passes                 forward and backward pass, eager and as one compiled graph
    measuring              from raw counts to named metrics
    watch                  what is watched, and what is done about trouble
    saving                 the state as checkpoints, and what of it is kept when
    tracing, origin        a step tensor by tensor, and what was not finite first
    in_use                 the state of a run whose model and loop are somebody else's
    faults                 how failure is rehearsed
    environment            what the bits of a run may depend on

A name is imported when it is first asked for: reading a configuration costs no torch, and names of a higher
room (``runs.study_api``) can be found here at all.
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
