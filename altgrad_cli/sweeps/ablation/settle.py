"""What the runs of a sweep say about causes: the stage that fails, the roles and layers that do damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altgrad_cli.config.precision import Regime
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.ablation.layers import LocalAttribution, attribute_places, paired_noise
from altgrad_cli.sweeps.ablation.places import Measured, measured, unreached_layers
from altgrad_cli.sweeps.ablation.roles import Attribution, Stage, attribute, part_of, rho_by_roles
from altgrad_cli.sweeps.arms import Arm, control_config, rules_alone
from altgrad_cli.sweeps.plan import Finding, measured_by_config
from altgrad_cli.sweeps.retries import STAGE_OPERANDS, layers_at_fault


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


def whole_attributions(arms: Sequence[Arm], findings: Mapping[str, Finding]) -> list[Attribution]:
    """For each failing format arm with a factorial: which stage fails."""
    rhos = {name: finding.judgement.rho for name, finding in findings.items()}
    return [
        attribute(arm.name, rho_by_roles(arm, arms, rhos))
        for arm in arms
        if arm.kind == "format"
        and arm.name in findings
        and findings[arm.name].failed
        and not rules_alone(arm.config.precision)
    ]


def locate(
    arms: Sequence[Arm], findings: Mapping[str, Finding], arm_name: str, stage: Stage, failing: str
) -> Where | None:
    """Where the trouble of a confirmed ``stage`` was measured; None where nothing was.

    Read from the run of ``arm_name``'s factorial that rounds the roles ``failing``: the smallest that fails.
    """
    arm = next(arm for arm in arms if arm.name == arm_name)
    part = part_of(arm, arms, failing)
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
    arms: Sequence[Arm], findings: Mapping[str, Finding], found: Attribution
) -> dict[str, Any]:
    """``found`` as plain values, with where its trouble was measured."""
    row = found.to_json()
    row |= _where_values(
        locate(arms, findings, found.arm, found.stage, found.failing or "") if found.stage else None
    )
    for other in row["also"]:
        other |= _where_values(locate(arms, findings, found.arm, other["stage"], other["failing"]))
    return row


def local_attributions(arms: Sequence[Arm], findings: Mapping[str, Finding]) -> list[LocalAttribution]:
    """For each finished format arm with rules: the roles in trouble, layer by layer."""
    by_config = measured_by_config(arms, findings)
    return [
        found
        for arm in arms
        if arm.kind == "format" and arm.config.precision.rules and arm.name in findings
        for found in attribute_places(
            arm.name, arm.config, by_config[arm.config], by_config.get, _noise(arm.config, by_config)
        )
    ]


def _noise(config: TrainConfig, by_config: Mapping[TrainConfig, Measured]) -> float | None:
    def validation_of(regime: Regime) -> Series | None:
        control = by_config.get(control_config(config, regime))
        return control.validation if control is not None else None

    return paired_noise(validation_of)
