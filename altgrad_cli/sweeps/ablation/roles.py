"""The runs that round some of a format's roles: each alone, all but one, and the rescues of a stage.

W, A, G and M are switched on one by one and left out one by one, with everything else equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from altgrad_cli.config.precision import REGIME_ROLES, ROLE_LETTERS, LayerRule, Role
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.sweeps.arms import Arm, ArmKind

_LETTERS: dict[str, Role] = {letter: role for role, letter in ROLE_LETTERS.items()}
FACTORIAL = ("W", "A", "G", "M", "WA", "WAG", "AM", "GM", "AGM")
"""Role sets that differ: each alone, built up, and all but one.

Where M is on, the stored grid is the weight operand already, so WAGM is AGM, and leaving W out of it changes
nothing; its other leave-one-out sets are GM, AM and WAG.
"""
FULL = "AGM"
STOCHASTIC = "stochastic"
"""The full set with the update rounded stochastically: a faithful update in expectation."""
SCALED = "scaled"
"""W and A alone, with scales that follow the tensors: what an unscaled format's forward pass lacks."""


def role_set(letters: str) -> tuple[Role, ...]:
    """``"WA"`` -> ("weights", "activations")."""
    return tuple(_LETTERS[letter] for letter in letters)


def role_letters(arm: Arm) -> str:
    """The roles that ``arm`` rounds, as letters of ``FACTORIAL``."""
    precision = arm.config.precision
    roles = REGIME_ROLES[precision.regime] if precision.roles is None else precision.roles
    letters = "".join(letter for letter in "WAGM" if _LETTERS[letter] in roles)
    return letters.replace("W", "") if "M" in letters else letters


def attribution_arms(arm: Arm) -> Iterator[Arm]:
    """The role factorial of the failing format arm ``arm``, and the arms that may rescue a stage of it.

    The full set is ``arm`` itself; W, A and G with float32 masters are the other rescue of the update.
    """
    for key, config in role_parts(arm).items():
        if key == STOCHASTIC:
            yield _part(arm, "rescue-stochastic", config, "the update is rounded stochastically", "rescue")
        elif key == SCALED:
            yield _part(arm, "rescue-scaled", config, "only WA is rounded, with delayed scales", "rescue")
        else:
            yield _part(arm, f"only-{key.lower()}", config, f"only {key} is rounded", "attribution")


def role_parts(arm: Arm) -> dict[str, TrainConfig]:
    """Role set (or ``stochastic``, ``scaled``) -> the run that shows it, less ``arm`` itself."""
    config, own = arm.config, role_letters(arm)
    precision = config.precision
    # With M on, W is among the roles: its operand is the stored grid.
    within = set(own) | ({"W"} if "M" in own else set())
    parts = {
        letters: _with_roles(config, letters)
        for letters in FACTORIAL
        if letters != own and set(letters) <= within
    }
    if "M" in own:
        parts[STOCHASTIC] = replace(config, precision=replace(precision, rounding="stochastic"))
    if precision.scaling.recipe == "none" and "WA" in parts:
        only_wa = parts["WA"]
        scaling = replace(precision.scaling, recipe="delayed")
        parts[SCALED] = replace(only_wa, precision=replace(only_wa.precision, scaling=scaling))
    return parts


def _with_roles(config: TrainConfig, letters: str) -> TrainConfig:
    """``config`` with only ``letters`` rounded, in layers with a rule of their own too."""
    roles = role_set(letters)
    rules = tuple(_rule_with_roles(rule, roles) for rule in config.precision.rules)
    if letters == "WAG":  # the regime `standard`, under the name by which it may be in the sweep already
        return replace(
            config, precision=replace(config.precision, regime="standard", roles=None, rules=rules)
        )
    return replace(config, precision=replace(config.precision, regime="uniform", roles=roles, rules=rules))


def _rule_with_roles(rule: LayerRule, roles: tuple[Role, ...]) -> LayerRule:
    if rule.roles is None:
        return rule
    left = tuple(role for role in rule.roles if role in roles)
    return replace(rule, roles=left) if left else replace(rule, roles=None, format="fp32")


def _part(arm: Arm, suffix: str, config: TrainConfig, what: str, kind: ArmKind) -> Arm:
    return replace(
        arm,
        name=f"{arm.name}-{suffix}",
        kind=kind,
        config=config,
        retry_of=arm.name,
        reason=f"{what}; everything else as in {arm.name}",
    )


def parts_of(arm: Arm, by_config: Mapping[TrainConfig, Arm]) -> dict[str, Arm]:
    """Role set (or rescue) -> the arm that rounds just that, else like ``arm``; ``arm`` itself included.

    Args:
        by_config: the arms to look among, by their configurations.
    """
    configs = {**role_parts(arm), role_letters(arm): arm.config}
    return {key: by_config[config] for key, config in configs.items() if config in by_config}
