"""Which stage of training a format breaks, as a table of the runs that switch its roles on one by one."""

from __future__ import annotations

from collections.abc import Mapping

from altgrad_cli.experiments.attribution import FACTORIAL, STOCHASTIC, Attribution
from altgrad_cli.reporting.columns import RunLog
from altgrad_cli.reporting.document import Block, Section, TableColumn, Text, make_table
from altgrad_cli.reporting.scope import Scope, attribution_of


def stage_sentence(scope: Scope, found: Attribution, runs: Mapping[str, RunLog]) -> str:
    """What the factorial says about ``found.arm``, and which rescue confirms it."""
    log = scope.evidence.run(found.arm)
    step = scope.evidence.judgement(log).step
    n = scope.evidence.of(log)
    rho = n(f"recovered_fraction@{step}")
    if found.stage is None:
        return (
            f"Which stage fails in `{log.name}` (rho {rho} at step {n(f'step@{step}')}) is not confirmed: "
            "either the runs that would tell are missing, or undoing the suspected stage alone does not "
            "bring it back."
        )
    rescue = runs[found.confirmed_by or ""]
    how = "rounding the update stochastically" if found.confirmed_by == STOCHASTIC else f"`{rescue.name}`"
    rescued = scope.evidence.of(rescue)(f"recovered_fraction@{step}")
    return (
        f"In `{log.name}` the **{found.stage}** fails: with every role rounded rho is {rho} at step "
        f"{n(f'step@{step}')}; undoing that stage alone ({how}) brings it to {rescued} in `{rescue.name}`."
    )


def attribution_section(scope: Scope) -> Section | None:
    """For every failing run with a factorial: the stage, and rho of each set of roles."""
    blocks: list[Block] = []
    for log in scope.failed_runs:
        found = attribution_of(scope, log)
        if found is None:
            continue
        attribution, runs = found
        step = scope.evidence.judgement(log).step
        order = [letters for letters in (*FACTORIAL, STOCHASTIC) if letters in runs]
        table = make_table(
            scope.evidence,
            "run",
            [runs[letters].name for letters in order],
            [
                TableColumn("roles rounded", "{}: roles"),
                TableColumn("rounding", "{}: config.precision.rounding"),
                TableColumn("validation loss", f"{{}}: at(validation_loss)@{step}"),
                TableColumn("rho", f"{{}}: recovered_fraction@{step}"),
                TableColumn("verdict", "{}: verdict"),
                TableColumn("cause", "{}: cause"),
            ],
        )
        blocks += [Text(stage_sentence(scope, attribution, runs)), table]
    if not blocks:
        return None
    key = (
        "Roles: W weights, A activations, G output gradients, M stored weights (with M, the weight "
        "operand is the stored grid)."
    )
    return Section("Attribution", (*blocks, Text(key)))
