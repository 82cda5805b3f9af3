"""The arms of a sweep, as a pure function of what was asked and of the results so far.

Controls come first, then the formats in the order given, then whatever the results call for. The same
specification and the same results give the same plan, so a sweep that was interrupted at any point goes
on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from altgrad_cli.experiments.arms import CONTROLS, Arm, arm_name, control_config
from altgrad_cli.experiments.attribution import attribution_arms
from altgrad_cli.experiments.records import RunRecord
from altgrad_cli.experiments.retries import retry_arms
from altgrad_cli.experiments.specification import SweepSpec, Variation
from altgrad_cli.experiments.verdicts import Judgement
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.equivalence import find_equivalents


@dataclass(frozen=True, slots=True)
class Finding:
    """A finished arm's result."""

    record: RunRecord
    judgement: Judgement

    @property
    def failed(self) -> bool:
        """Whether the verdict says so; an open verdict does not."""
        return self.judgement.verdict.grade == "failed"


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two formats that are one experiment: ``second``'s grid is ``factor`` times ``first``'s."""

    first: str
    second: str
    factor: float

    def __str__(self) -> str:
        return f"{self.second} is {self.factor:g} x {self.first}"


def plan_sweep(spec: SweepSpec, findings: Mapping[str, Finding]) -> tuple[Arm, ...]:
    """All arms known to be needed once ``findings`` (by arm name) are in, in their order.

    Arms with equal configurations are one arm: it is listed once, where it was first needed.
    """
    arms = _Collected()
    variations = list(spec.variations())
    for variation in variations:
        for regime in CONTROLS:
            arms.add(_control(variation, regime))
    formats: list[Arm] = []
    skipped = {equal.second for equal in equivalences(spec)} if spec.skip_equivalent else set()
    for variation in variations:
        formats += [arms.add(_format_arm(variation, name)) for name in spec.order if name not in skipped]
    for arm in {arm.name: arm for arm in formats}.values():
        finding = findings.get(arm.name)
        if spec.retries:
            for retry in retry_arms(arm, finding, with_interventions=spec.with_interventions):
                arms.add(retry)
        if spec.attribute and finding is not None and finding.failed:
            for part in attribution_arms(arm):
                arms.add(part)
    return tuple(arms.by_name.values())


def equivalences(spec: SweepSpec) -> tuple[Equivalence, ...]:
    """Formats in the order that are one experiment under power-of-two scales, the earlier one first."""
    if not spec.base.precision.scaling.power_of_two or spec.base.precision.scaling.recipe == "none":
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


class _Collected:
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


def _control(variation: Variation, regime: str) -> Arm:
    return Arm(
        name=arm_name(regime, seed=variation.seed, settings=variation.control_settings),
        kind="control",
        config=control_config(variation.base, regime),  # type: ignore[arg-type]
        controls=control_names(variation),
        reason={
            "fp32": "nothing rounded: the upper end of the recovered fraction",
            "bf16": "BF16 operands on float32 masters, through the same code as the 8-bit formats",
            "frozen": "linear layers never updated: the lower end of the recovered fraction",
        }[regime],
    )


def control_names(variation: Variation) -> dict[str, str]:
    """The names of the two ends of the recovered fraction for ``variation``."""
    settings = variation.control_settings
    return {r: arm_name(r, seed=variation.seed, settings=settings) for r in ("fp32", "frozen")}


def _format_arm(variation: Variation, format_name: str) -> Arm:
    config = replace(variation.base, fp8_format=format_name)
    regime = config.precision.regime
    return Arm(
        name=arm_name(format_name, regime, seed=variation.seed, settings=variation.named_settings),
        kind="format",
        config=config,
        controls=control_names(variation),
        reason="the format in every linear layer",
    )
