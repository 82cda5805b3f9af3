"""What the runs of a sweep say about causes: the stage that fails, the roles and layers that do damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altgrad_cli.runs.record import CONTROLS
from altgrad_cli.sweeps.ablation.layers import LayerAttribution, attribute_places, loss_noise
from altgrad_cli.sweeps.ablation.places import measured, unreached_layers
from altgrad_cli.sweeps.ablation.roles import Stage, StageAttribution, attribute, parts_of, rho_by_roles
from altgrad_cli.sweeps.arms import Arm, rules_alone
from altgrad_cli.sweeps.plan import measured_by_config
from altgrad_cli.sweeps.retries import STAGE_OPERANDS, layers_at_fault
from altgrad_cli.sweeps.verdicts import JudgedRun


@dataclass(frozen=True, slots=True)
class Where:
    """Where a stage's trouble was measured."""

    run: str
    """The run it was measured in: the smallest set of roles that fails."""
    trouble: str
    """In words, as in ``underflow of gradients``."""
    rate: float
    """Of the worst layer, mean over the run."""
    layers: tuple[str, ...]
    """The worst first."""
    unreached: tuple[str, ...]
    """Layers that were handed nothing but zeros because of it."""

    def __str__(self) -> str:
        behind = f"; nothing arrives in {', '.join(self.unreached)}" if self.unreached else ""
        return f"{self.trouble} (up to {self.rate:.3g}, {self.run}) in {', '.join(self.layers)}{behind}"


def _where_values(where: Where | None) -> dict[str, Any]:
    return {
        "cause": where.trouble if where else None,
        "layers": list(where.layers) if where else [],
        "unreached": list(where.unreached) if where else [],
    }


def whole_attributions(arms: Sequence[Arm], findings: Mapping[str, JudgedRun]) -> list[StageAttribution]:
    """For each failing format arm with a factorial: which stage fails."""
    rhos = {name: finding.rho for name, finding in findings.items()}
    return [
        attribute(arm.name, rho_by_roles(arm, arms, rhos))
        for arm in arms
        if arm.kind == "format"
        and arm.name in findings
        and findings[arm.name].failed
        and not rules_alone(arm.config.precision)
    ]


def locate(
    arms: Sequence[Arm], findings: Mapping[str, JudgedRun], arm_name: str, stage: Stage, failing: str
) -> Where | None:
    """Where the trouble of a confirmed ``stage`` was measured; None where nothing was.

    Read from the run of ``arm_name``'s factorial that rounds the roles ``failing``: the smallest that fails.
    """
    arm = next(arm for arm in arms if arm.name == arm_name)
    part = parts_of(arm, arms).get(failing)
    finding = findings.get(part.name) if part is not None else None
    troubles = layers_at_fault(finding.record, stage) if finding is not None else []
    if finding is None or not troubles:
        return None
    layers = tuple(trouble.layer for trouble in troubles)
    unreached = {
        layer: None
        for role in STAGE_OPERANDS[stage]
        for layer in unreached_layers(measured(finding.record), role)
        if layer not in layers
    }
    return Where(finding.record.name, troubles[0].words, troubles[0].rate, layers, tuple(unreached))


def attribution_row(
    arms: Sequence[Arm], findings: Mapping[str, JudgedRun], found: StageAttribution
) -> dict[str, Any]:
    """``found`` as plain values, with where its trouble was measured."""
    row = found.to_json()
    row |= _where_values(
        locate(arms, findings, found.arm, found.stage, found.failing or "") if found.stage else None
    )
    for other in row["also"]:
        other |= _where_values(locate(arms, findings, found.arm, other["stage"], other["failing"]))
    return row


def local_attributions(arms: Sequence[Arm], findings: Mapping[str, JudgedRun]) -> list[LayerAttribution]:
    """For each finished format arm with rules: the roles in trouble, layer by layer."""
    return [
        found
        for arm in arms
        if arm.kind == "format" and arm.config.precision.rules and arm.name in findings
        for found in attribute_layers(arm, arms, findings)
    ]


def attribute_layers(
    arm: Arm, arms: Sequence[Arm], findings: Mapping[str, JudgedRun]
) -> list[LayerAttribution]:
    """The roles in trouble in ``arm``, layer by layer, with what their rescues among ``arms`` show."""
    run = measured(findings[arm.name].record)
    lookup = measured_by_config(arms, findings).get
    return attribute_places(arm.name, arm.config, run, lookup, noise_of(arm, findings))


def noise_of(arm: Arm, findings: Mapping[str, JudgedRun]) -> float | None:
    """``loss_noise`` by the evaluations of the controls of ``arm``; None where one of them is missing."""
    controls = {regime: findings.get((arm.controls or {}).get(regime, "")) for regime in CONTROLS}
    series = {regime: found.record.validation for regime, found in controls.items() if found is not None}
    return loss_noise(**series) if len(series) == len(CONTROLS) else None
