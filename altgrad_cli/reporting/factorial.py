"""Which runs switch a failing run's roles on and off, and what they say about the stage that fails."""

from __future__ import annotations

from dataclasses import replace

from altgrad_cli.errors import UsageError
from altgrad_cli.experiments.arms import Arm
from altgrad_cli.experiments.attribution import FULL, Attribution, Stage, attribute, rho_by_roles
from altgrad_cli.reporting.columns import RunLog
from altgrad_cli.reporting.scope import Scope
from altgrad_cli.training.config import WandbConfig
from altgrad_cli.training.config_loading import from_plain

FAILING_SET: dict[Stage, str] = {
    "forward precision": "WA",
    "gradient fidelity": "WAG",
    "optimizer update": FULL,
}
"""The role set whose failing, when the smaller ones do not, names a stage."""


def factorial(scope: Scope, log: RunLog) -> dict[str, RunLog]:
    """Role set (or rescue) -> the run that rounds just that, else like ``log``; itself included."""
    runs = scope.subjects
    try:
        arms = [_arm(run) for run in runs]
    except UsageError:
        return {}  # a log of another version: its configuration cannot be compared
    by_name = {arm.name: arm for arm in arms}
    if log.name not in by_name:
        return {}
    # The factorial is asked for each run's number instead of its rho: it tells which run is which part.
    numbers = {run.name: float(number) for number, run in enumerate(runs)}
    found = rho_by_roles(by_name[log.name], arms, numbers)
    return {key: runs[int(number)] for key, number in found.items() if number is not None}


def _arm(log: RunLog) -> Arm:
    config = replace(from_plain(log.record.config, log.name), wandb=WandbConfig())
    return Arm(name=log.name, kind="format", config=config)


def attribution_of(scope: Scope, log: RunLog) -> tuple[Attribution, dict[str, RunLog]] | None:
    """Which stage fails in ``log``, by the runs that are there; None where there are none beside it."""
    runs = factorial(scope, log)
    if len(runs) < 2:
        return None
    rho = {letters: scope.evidence.judgement(run).rho for letters, run in runs.items()}
    return attribute(log.name, rho), runs
