"""The arms of a sweep, as a pure function of what was asked and of the results so far.

Controls come first, then the formats in the order given, then whatever the results call for. The same
specification and the same results give the same plan, so a sweep that was interrupted at any point goes
on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from altgrad_cli.config.precision import Regime
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.equivalence import find_equivalents
from altgrad_cli.runs.record import CONTROLS, RunRecord
from altgrad_cli.sweeps.ablation.layers import attempts, records_by_config
from altgrad_cli.sweeps.ablation.roles import attribution_arms
from altgrad_cli.sweeps.ablation.troubles import STUDIED_ROLES
from altgrad_cli.sweeps.arms import Arm, arm_name, control_config, rules_alone
from altgrad_cli.sweeps.comparison import seed_groups
from altgrad_cli.sweeps.retries import retry_arms
from altgrad_cli.sweeps.specification import SweepSpec, Variation
from altgrad_cli.sweeps.tuning import (
    BEYOND_IT,
    OF_THE_GRID,
    RateGrid,
    at_rate,
    grid_around,
    grid_of,
    losses_of,
    search,
    trial,
)
from altgrad_cli.sweeps.verdicts import JudgedRun


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two formats that are one experiment: ``second``'s grid is ``factor`` times ``first``'s."""

    first: str
    second: str
    factor: float

    def __str__(self) -> str:
        return f"{self.second} is {self.factor:g} x {self.first}"


def plan_sweep(spec: SweepSpec, findings: Mapping[str, JudgedRun]) -> tuple[Arm, ...]:
    """All arms known to be needed once ``findings`` (by arm name) are in, in their order.

    Arms with equal configurations are one arm: it is listed once, where it was first needed.
    """
    plain, formats = _plain_arms(spec)
    arms = plain if spec.tune is None else _tuned_arms(spec, plain, findings)
    for arm in [arms.by_name[name] for name in formats if name in arms.by_name]:
        finding = findings.get(arm.name)
        if spec.retries:
            for retry in retry_arms(arm, finding, with_interventions=spec.with_interventions):
                arms.add(retry)
        if spec.attribute and finding is not None:
            if finding.failed and not rules_alone(arm.config.precision):
                for part in attribution_arms(arm):
                    arms.add(part)
            if arm.config.precision.rules:
                _add_rescues(arms, arm, finding, findings)
    return tuple(arms.by_name.values())


def _plain_arms(spec: SweepSpec) -> tuple[_Arms, list[str]]:
    """The controls and the formats, each at one learning rate, and the formats' names."""
    arms = _Arms()
    variations = spec.variations()
    baseline = variations[0].control_rule  # what a format costs beside BF16 is asked of one rule only
    controls = [
        _add_controls(arms, each, CONTROLS if each.control_rule == baseline else CONTROLS[:2])
        for each in variations
    ]
    skipped = {equal.second for equal in equivalences(spec)} if spec.skip_equivalent else set()
    formats = [
        arms.add(_format_arm(variation, name, ends)).name
        for variation, ends in zip(variations, controls, strict=True)
        for name in spec.order
        if name not in skipped
    ]
    return arms, list(dict.fromkeys(formats))


def _tuned_arms(spec: SweepSpec, plain: _Arms, findings: Mapping[str, JudgedRun]) -> _Arms:
    """The trials of every arm of ``plain``, and the arms at their best rates as far as those are known."""
    arms, final = _Arms(), dict[str, Arm]()
    for seeds in seed_groups(plain.by_name.values()):
        grid = _grid(spec, seeds[0])
        trials = {rate: [trial(arm, rate, OF_THE_GRID) for arm in seeds] for rate in grid.start}
        trials |= {
            rate: [trial(arm, rate, BEYOND_IT) for arm in seeds] for rate in (*grid.below, *grid.above)
        }
        found = search(grid, losses_of(trials, findings))
        for rate in found.rates:
            for arm in trials[rate]:
                arms.add(arm)
        if found.decided and found.best is not None:
            final |= {arm.name: at_rate(arm, found.best) for arm in seeds}
    for arm in [final[name] for name in plain.by_name if name in final]:
        controls = {regime: name for regime, name in (arm.controls or {}).items() if name in final}
        arms.add(replace(arm, controls=controls))
    return arms


def _grid(spec: SweepSpec, arm: Arm) -> RateGrid:
    """The rates at which ``arm`` is tried."""
    return grid_of(spec.tune) if spec.tune else grid_around(arm.config.learning_rate)


def arms_to_come(spec: SweepSpec) -> tuple[list[Arm], list[Arm]]:
    """What the plan of a sweep with ``tune`` lacks before there are results; [], [] of any other sweep.

    The runs at the best rates (here at those that the grids are laid round), and the most that widening adds.
    """
    if spec.tune is None:
        return [], []
    plain = list(_plain_arms(spec)[0].by_name.values())
    more = [trial(arm, rate, BEYOND_IT) for arm in plain for rate in _grid(spec, arm).widest]
    return [at_rate(arm, arm.config.learning_rate) for arm in plain], more


def equivalences(spec: SweepSpec) -> tuple[Equivalence, ...]:
    """Formats in the order that are one experiment under power-of-two scales, the earlier one first."""
    scaling = spec.base.precision.scaling
    if not scaling.power_of_two or scaling.recipe == "none" or rules_alone(spec.base.precision):
        return ()
    formats = [parse_format(name) for name in spec.order]
    found: list[Equivalence] = []
    for index, second in enumerate(formats):
        for equal in find_equivalents(second, formats[:index]):
            # Grids of finite numbers only: an inf or nan code, or a scale of its own, is another experiment.
            if equal.same_specials and "E7M0" not in (second.name, equal.format.name):
                found.append(Equivalence(equal.format.name, second.name, equal.factor))
                break
    return tuple(found)


def _add_rescues(arms: _Arms, arm: Arm, finding: JudgedRun, findings: Mapping[str, JudgedRun]) -> None:
    """The runs that undo one role of the layers in which ``arm`` shows trouble."""

    def lookup(config: TrainConfig) -> RunRecord | None:
        return records_by_config(arms.by_name.values(), findings).get(config)

    for role in STUDIED_ROLES:
        for troubled, config in attempts(arm.config, role, finding.record, lookup):
            named = ", ".join(f"{each.layer} ({each.metric} {each.rate:.3g})" for each in troubled)
            rescue = replace(
                arm,
                name=f"{arm.name}-restore-{role.replace('_', '-')}",
                kind="rescue",
                config=config,
                retry_of=arm.name,
                reason=f"{role} unrounded in {named}",
            )
            arms.add(rescue)


class _Arms:
    """Arms in order of first need, one for each configuration."""

    def __init__(self) -> None:
        self.by_name: dict[str, Arm] = {}
        self._by_config: dict[object, Arm] = {}

    def add(self, arm: Arm) -> Arm:
        known = self._by_config.get(arm.config)
        if known is not None:
            return known
        name, number = arm.name, 2
        while name in self.by_name:
            name, number = f"{arm.name}-{number}", number + 1
        arm = replace(arm, name=name)
        self.by_name[name] = self._by_config[arm.config] = arm
        return arm


def _add_controls(arms: _Arms, variation: Variation, regimes: Sequence[Regime]) -> dict[str, str]:
    """Add the controls of ``variation``; the names under which they are in the plan."""
    names: dict[str, str] = {}
    for regime in regimes:
        arm = Arm(
            name=arm_name(
                regime, *variation.control_parts, seed=variation.seed, settings=variation.control_settings
            ),
            kind="control",
            config=control_config(variation.base, regime),
            reason=_CONTROL_REASONS[regime],
        )
        names[regime] = arms.add(arm).name
    for name in names.values():
        arms.by_name[name] = replace(arms.by_name[name], controls=names)
    return names


_CONTROL_REASONS: dict[Regime, str] = {
    "fp32": "nothing rounded: the upper end of the recovered fraction",
    "frozen": "linear layers never updated: the lower end of the recovered fraction",
    "bf16": "BF16 operands on float32 masters, through the same code as the 8-bit formats",
}


def _format_arm(variation: Variation, format_name: str, controls: Mapping[str, str]) -> Arm:
    precision = variation.base.precision
    regime = precision.regime
    rules_only = rules_alone(precision)  # then every format's arm is the same
    given = variation.base.fp8_format
    if rules_only:
        asked = any(rule.format is None for rule in precision.rules)  # else the format makes no difference
        studied, name = precision.rules_format(given), given if asked else "E5M2"
    else:
        studied = name = format_name
        if parse_format(name) != parse_format(given):
            precision = precision.for_another_format()
    config = replace(variation.base, fp8_format=name, precision=precision)
    return Arm(
        name=arm_name(
            studied, regime, *variation.format_parts, seed=variation.seed, settings=variation.named_settings
        ),
        kind="format",
        config=config,
        controls=controls,
        reason="rounded by the rules alone" if rules_only else "the format in every linear layer",
    )
