"""Which stage of training a format breaks, read from the runs that round some of its roles.

Forward precision fails if W and A alone fail; gradient fidelity if adding G does; the optimizer's update if
only adding M does. A stage is named only where undoing it, and nothing else, brings the run back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.thresholds import FAILED_BELOW
from altgrad_cli.sweeps.ablation.roles import FULL, SCALED, STOCHASTIC, parts_of, role_parts
from altgrad_cli.sweeps.ablation.troubles import STAGE_OF, Stage, layers_at_fault, unreached_layers
from altgrad_cli.sweeps.arms import Arm, rules_alone
from altgrad_cli.sweeps.verdicts import JudgedRun

_LADDER: tuple[tuple[str, Stage, tuple[str, ...]], ...] = (
    ("WA", "forward precision", ("W", "A", SCALED)),
    ("WAG", "gradient fidelity", ("WA",)),
    (FULL, "optimizer update", ("WAG", STOCHASTIC)),
)
"""Role sets in the order in which they are built up, the stage that each adds, and the runs that undo it."""
_LEFT_OUT: dict[Stage, tuple[str, ...]] = {
    "forward precision": ("GM",),
    "gradient fidelity": ("AM",),
    "optimizer update": ("WAG", STOCHASTIC),
}
"""Stage -> the full set less the roles of that stage."""
RESCUED_BY = 0.2
"""How much rho undoing a stage has to add to confirm it: five times what a seed moves it."""

COSTS_FROM = 0.1
"""How much rho a stage beside the failing one has to cost, and undoing it to add: twice a seed, and more."""


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
        return f"; {self.trouble} (up to {self.rate:.3g}, {self.run}) in {', '.join(self.layers)}{behind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """A stage that costs rho where it is added to the roles before it, without making the run fail."""

    stage: Stage
    failing: str
    """The role set that it was added in."""
    confirmed_by: str
    before: float
    """rho of ``failing``."""
    after: float
    """rho of ``confirmed_by``."""
    where: Where | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return _plain(asdict(self), self.where)

    def __str__(self) -> str:
        how = _HOW.get(self.confirmed_by, f"with only {self.confirmed_by}")
        return (
            f"{self.stage} (rho is {self.before:.2f} with only {self.failing}, and {self.after:.2f} {how})"
            f"{self.where or ''}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAttribution:
    """Which stage fails, by how much, and what confirms it."""

    arm: str
    stage: Stage | None
    """The stage that makes the run fail; None: none was confirmed."""
    failing: str | None
    """The role set in which that stage was seen to fail."""
    explanation: str
    confirmed_by: str | None
    """The role set, or ``stochastic``, whose rescue confirms the stage."""
    rho: Mapping[str, float | None]
    """Role set (and ``stochastic``) -> recovered fraction; None: not finished."""
    where: Where | None
    also: tuple[Contribution, ...]
    """Other stages that cost something where they were added, each confirmed by a rescue of its own."""

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return _plain(asdict(self), self.where) | {"also": [other.to_json() for other in self.also]}

    def __str__(self) -> str:
        named = f"{self.arm}: {self.stage or 'no stage confirmed'} ({self.explanation}){self.where or ''}"
        return "\n".join([named, *(f"{self.arm}: also {other}" for other in self.also)])


def _plain(values: dict[str, object], where: Where | None) -> dict[str, object]:
    """``values`` with ``where`` as three keys of their own."""
    return {key: value for key, value in values.items() if key != "where"} | {
        "cause": where.trouble if where else None,
        "layers": list(where.layers) if where else [],
        "unreached": list(where.unreached) if where else [],
    }


def stage_attribution(
    arm: Arm, arms: Iterable[Arm], findings: Mapping[str, JudgedRun]
) -> StageAttribution | None:
    """Which stage fails in ``arm``, by those of its factorial's runs that have ended.

    None where it did not fail, or nothing but the rules is under study.
    """
    if arm.name not in findings or not findings[arm.name].failed or rules_alone(arm.config.precision):
        return None
    parts = parts_of(arm, {each.config: each for each in arms})
    ended = {key: findings[part.name] for key, part in parts.items() if part.name in findings}
    rho = dict.fromkeys(role_parts(arm)) | {key: found.rho for key, found in ended.items()}

    def locate(stage: Stage, failing: str) -> Where | None:
        return _locate(ended[failing], stage) if failing in ended else None

    return attribute(arm.name, rho, locate)


def _locate(found: JudgedRun, stage: Stage) -> Where | None:
    """Where the trouble of ``stage`` was measured in a run; None where nothing was."""
    troubled = layers_at_fault(found.record, stage)
    if not troubled:
        return None
    layers = tuple(trouble.layer for trouble in troubled)
    unreached = {
        layer: None
        for role in OPERAND_ROLES
        if STAGE_OF[role] == stage
        for layer in unreached_layers(found.record, role)
        if layer not in layers
    }
    return Where(found.record.name, troubled[0].words, troubled[0].rate, layers, tuple(unreached))


Locate = Callable[[Stage, str], Where | None]
"""Stage and role set -> where the trouble of that stage was measured in the run of that set."""


def attribute(
    arm: str, rho: Mapping[str, float | None], locate: Locate = lambda stage, failing: None
) -> StageAttribution:
    """Read the factorial of ``arm``: the first stage that fails as roles are added, if undoing it helps.

    Args:
        rho: recovered fraction of every set of ``FACTORIAL`` and of the rescues. NaN (a non-finite run)
            counts as failed; None or absent (not run) leaves what depends on it open.

    Where leaving out the roles of one stage brings the full set itself back, the others are not at fault in
    it, however they do alone: an unscaled weight operand, say, where the stored weights have a scale.
    """
    failing, stage, rescues = _suspect(rho)
    before = rho.get(failing)
    best, gain = _best_rescue(rho, failing, rescues)
    confirmed = best is not None and gain >= RESCUED_BY
    if stage is None:
        explanation = "the runs that would tell are missing, or none of them fails"
    elif best is None or not confirmed:
        explanation = f"{stage} is suspected, but undoing it alone does not bring the run back"
    else:
        how = _HOW.get(best, f"with only {best}")
        explanation = f"rho is {before:.2f} with {failing} rounded, and {rho[best]:.2f} {how}"
    if not confirmed:
        stage = None
    return StageAttribution(
        arm=arm,
        stage=stage,
        failing=failing if confirmed else None,
        explanation=explanation,
        confirmed_by=best if confirmed else None,
        rho=rho,
        where=locate(stage, failing) if stage else None,
        also=tuple(_contributions(rho, stage, locate)),
    )


_HOW = {
    STOCHASTIC: "with the update rounded stochastically",
    SCALED: "with delayed scales",
}


def _suspect(rho: Mapping[str, float | None]) -> tuple[str, Stage | None, tuple[str, ...]]:
    """The first role set that fails as roles are added, its stage, and the runs that undo that stage."""
    at_fault = _stages_at_fault(rho)
    for letters, stage, rescues in _LADDER:
        value = rho.get(letters)
        if value is None:
            break
        if not value >= FAILED_BELOW and (not at_fault or stage in at_fault):
            return letters, stage, rescues
    return "", None, ()


def _stages_at_fault(rho: Mapping[str, float | None]) -> set[Stage]:
    """The stages whose roles, left out of the full set, bring it back; empty where none does or was run."""
    return {
        stage for stage, without in _LEFT_OUT.items() if _best_rescue(rho, FULL, without)[1] >= RESCUED_BY
    }


def _best_rescue(
    rho: Mapping[str, float | None], failing: str, rescues: Sequence[str]
) -> tuple[str | None, float]:
    """The run of ``rescues`` with the largest rho, and its gain on ``failing``; (None, 0) without any."""
    before = rho.get(failing)
    if before is None:
        return None, 0.0
    start = 0.0 if math.isnan(before) else before
    gains = {name: value - start for name in rescues if (value := rho.get(name)) is not None}
    best = max(gains, key=lambda name: gains[name], default=None)
    return best, gains[best] if best is not None else 0.0


def _contributions(
    rho: Mapping[str, float | None], main: Stage | None, locate: Locate
) -> Iterator[Contribution]:
    """The stages other than ``main`` that cost ``COSTS_FROM`` where they are added, and are confirmed."""
    previous: float | None = 1.0  # the fp32 run
    for letters, stage, rescues in _LADDER:
        value = rho.get(letters)
        if value is None or previous is None or math.isnan(value):
            return
        best, gain = _best_rescue(rho, letters, rescues)
        if stage != main and best is not None and min(gain, previous - value) >= COSTS_FROM:
            after = rho[best]
            assert after is not None
            yield Contribution(
                stage=stage,
                failing=letters,
                confirmed_by=best,
                before=value,
                after=after,
                where=locate(stage, letters),
            )
        previous = value
