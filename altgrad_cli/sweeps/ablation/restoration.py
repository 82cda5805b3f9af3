"""The same run with one role of some layers left in float32: what confirms that the trouble sits there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from altgrad_cli.config.precision import REGIME_ROLES, LayerRule, PrecisionConfig, Role
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.surgery.precision_plan import LayerKind, LayerPrecision, PrecisionPlan, plan_precision
from altgrad_cli.sweeps.arms import control_config


def restored(
    config: TrainConfig, role: Role, layers: Sequence[str], kinds: Mapping[str, LayerKind]
) -> TrainConfig:
    """``config`` with ``role`` of ``layers`` unrounded and every other role and layer as it was.

    Args:
        kinds: the network's linear layers, and what each is.

    Where that leaves nothing but the fp32 control, or the regime without its rules, it is that
    configuration, so that the run is shared.
    """
    plan = _plan(config, kinds)
    rules = tuple(
        _rule_without(config.precision, entry, role) for entry in plan.layers if entry.name in set(layers)
    )
    precision = replace(config.precision, rules=(*rules, *config.precision.rules))
    wanted = replace(config, precision=precision)
    simpler = (
        control_config(config, "fp32"),
        replace(config, precision=replace(config.precision, rules=())),
    )
    target = _essence(_plan(wanted, kinds))
    for other in simpler:
        same = replace(other, precision=wanted.precision, fp8_format=wanted.fp8_format) == wanted
        if same and _essence(_plan(other, kinds)) == target:
            return other
    return wanted


def _plan(config: TrainConfig, kinds: Mapping[str, LayerKind]) -> PrecisionPlan:
    return plan_precision(config.precision, config.fp8_format, kinds)


def _rule_without(precision: PrecisionConfig, entry: LayerPrecision, role: Role) -> LayerRule:
    roles = [planned for planned, _ in entry.formats if planned != role]
    if role == "stored_weights" and "weights" in _asked_for(precision, entry.name):
        # The stored grid was the weight operand too; on a float32 master the operand is rounded itself.
        roles.insert(0, "weights")
    if not roles:
        return LayerRule(pattern=entry.name, format="fp32")
    apart: tuple[Role, ...] = ("activations", "gradients")
    own = next((fmt for role, fmt in entry.formats if role not in apart), entry.formats[0][1])
    activations, gradients = (None if fmt in (None, own) else fmt.name for fmt in map(entry.format_of, apart))
    return LayerRule(
        pattern=entry.name,
        format=own.name,
        roles=tuple(roles),
        scaling=entry.recipe,
        activation_format=activations,
        gradient_format=gradients,
    )


def _asked_for(precision: PrecisionConfig, layer: str) -> tuple[Role, ...]:
    regime = REGIME_ROLES[precision.regime] if precision.roles is None else precision.roles
    rule = next((rule for rule in precision.rules if fnmatchcase(layer, rule.pattern)), None)
    return regime if rule is None or rule.roles is None else rule.roles


def _essence(plan: PrecisionPlan) -> object:
    """What a plan does, less what makes no difference to it."""
    layers = [(entry.name, entry.formats, entry.recipe if entry.formats else None) for entry in plan.layers]
    noticed = {role for entry in plan.layers for role, _ in entry.formats}
    return layers, plan.frozen_blocks, noticed & set(plan.stochastic)
