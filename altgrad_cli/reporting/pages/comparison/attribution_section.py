"""Which stage of training a format breaks, as a table of the runs that switch its roles on one by one."""

from __future__ import annotations

from collections.abc import Mapping

from altgrad_cli.metrics.catalogue import heading_of
from altgrad_cli.reporting.blocks.document import Block, Section, Text, section
from altgrad_cli.reporting.evidence.quantities import RULES
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison.layers_section import layers_blocks
from altgrad_cli.reporting.pages.comparison.plots import ROLE_KEY
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.roles import (
    FACTORIAL,
    FULL,
    SCALED,
    STOCHASTIC,
)
from altgrad_cli.sweeps.ablation.stages import Contribution, StageAttribution
from altgrad_cli.sweeps.ablation.troubles import Stage


def stage_sentence(scope: Scope, found: StageAttribution) -> str:
    """What the factorial says about ``found.arm``, and which rescue confirms it."""
    log = scope.evidence.run(found.arm)
    runs = scope.evidence.parts(log)
    n = scope.evidence.of(log)
    if found.stage is None:
        return (
            f"Which stage fails in `{log.name}` (rho {n('recovered_fraction')} at step "
            f"{n('recovered_fraction.step')}) is not confirmed: either the runs that would tell are missing, "
            "or undoing the suspected stage alone does not bring it back."
        )
    failing, rescue = runs[found.failing or ""], runs[found.confirmed_by or ""]
    f, r = scope.evidence.of(failing), scope.evidence.of(rescue)
    how = f", {_HOW[found.confirmed_by]}," if found.confirmed_by in _HOW else ""
    return (
        f"In `{log.name}` the **{found.stage}** fails: rho is {f('recovered_fraction')} at step "
        f"{f('recovered_fraction.step')} with {f('roles')} rounded (`{failing.name}`). Undoing that stage "
        f"alone{how} brings it to {r('recovered_fraction')} at step {r('recovered_fraction.step')} "
        f"(`{rescue.name}`)."
        + _measured_in(scope, found.stage, failing)
        + "".join(_also(scope, other, runs) for other in found.also)
    )


def _also(scope: Scope, other: Contribution, runs: Mapping[str, RunRecord]) -> str:
    """A stage that costs something without making the run fail."""
    failing, rescue = runs[other.failing], runs[other.confirmed_by]
    f, r = scope.evidence.of(failing), scope.evidence.of(rescue)
    masters = " on float32 masters" if FULL in runs else ""
    if masters and other.stage == "forward precision":
        masters += ", where the weight operand is rounded by itself"
    return (
        f" The {other.stage} costs something too: rho is {f('recovered_fraction')} with {f('roles')} "
        f"rounded{masters} (`{failing.name}`), {r('recovered_fraction')} with that undone (`{rescue.name}`)."
        + _measured_in(scope, other.stage, failing)
    )


_TROUBLE: dict[Stage, tuple[tuple[str, str], ...]] = {
    "forward precision": (
        ("underflow_rate/weights", "underflowed.from"),
        ("underflow_rate/activations", "underflowed.from"),
        ("overflow_rate/weights", "saturated.from"),
        ("overflow_rate/activations", "saturated.from"),
    ),
    "gradient fidelity": (
        ("underflow_rate/gradients", "underflowed.from"),
        ("overflow_rate/gradients", "saturated.from"),
    ),
    "optimizer update": (("bit_stall_rate", "stall.from"),),
}
"""Stage -> the layer metrics that show its trouble, and the rule from which on they do."""


def _measured_in(scope: Scope, stage: Stage, failing: RunRecord) -> str:
    """What the layers of the run ``failing`` measured of its trouble; nothing where no limit is crossed."""
    f = scope.evidence.of(failing)
    found = []
    for metric, rule in _TROUBLE[stage]:
        count = f"layers_at_least({metric}>={RULES[rule]})"
        if scope.evidence.value(f"{failing.name}: {count}"):
            limit = scope.evidence.cite(f"rule: {rule}")
            # A share of the values that are not zero: where there were none, it is not measured.
            reached = " that anything but zeros reaches" if metric.startswith("underflow") else ""
            found.append(
                f"{heading_of(metric)} of {limit} or more in {f(count)} of "
                f"{f(f'measured_layers({metric})')} layers{reached}, most in {f(f'worst_layer({metric})')}"
            )
    return f" Measured there: {'; '.join(found)}." if found else ""


_HOW: dict[str | None, str] = {
    STOCHASTIC: "by rounding the update stochastically",
    SCALED: "by scales that follow the tensors",
}


_COLUMNS = (
    *("roles", "config.precision.rounding", "config.precision.scaling.recipe", "last(validation_loss)"),
    *("recovered_fraction", "recovered_fraction.step", "grade", "cause"),
)


def attribution_section(scope: Scope) -> Section | None:
    """For every failing run with a factorial: the stage, and rho of each set of roles; then the layers of
    every run with rules."""
    blocks: list[Block | None] = []
    for log in scope.failed_runs:
        attribution, runs = scope.evidence.attribution(log), scope.evidence.parts(log)
        if attribution is not None:
            names = [runs[key].name for key in (*FACTORIAL, SCALED, STOCHASTIC) if key in runs]
            blocks.append(Text(stage_sentence(scope, attribution)))
            blocks.append(scope.evidence.table("run", names, _COLUMNS))
    if blocks:
        blocks.append(Text(f"Roles: {ROLE_KEY} (with M, the weight operand is the stored grid)."))
    for log in scope.main_runs:
        if log.has_rules:
            blocks += layers_blocks(scope, log)
    return section("Attribution", *blocks)
