"""Which runs switch a failing run's roles on and off, and what they say about the stage that fails."""

from __future__ import annotations

from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.places import config_of
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.sweeps.ablation.roles import Attribution, attribute, rho_by_roles
from altgrad_cli.sweeps.arms import Arm


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
    return Arm(name=log.name, kind="format", config=config_of(log))


def attribution_of(scope: Scope, log: RunLog) -> tuple[Attribution, dict[str, RunLog]] | None:
    """Which stage fails in ``log``, by the runs that are there; None where there are none beside it."""
    runs = factorial(scope, log)
    if len(runs) < 2:
        return None
    rho = {letters: scope.evidence.judgement(run).rho for letters, run in runs.items()}
    return attribute(log.name, rho), runs
