"""Which stage of training a format breaks: the role factorial, its reading, and the rescues that confirm it.

W, A, G and M are switched on one by one and left out one by one, with everything else equal. Forward
precision fails if W and A alone fail; gradient fidelity if adding G does; the optimizer's update if only
adding M does. A stage is named only where undoing it alone brings the run back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from altgrad_cli.diagnostics.outcome import FAILED_BELOW
from altgrad_cli.experiments.arms import Arm, ArmKind
from altgrad_cli.quantization.precision import REGIME_ROLES, ROLE_LETTERS, Role
from altgrad_cli.training.config import TrainConfig

Stage = Literal["forward precision", "gradient fidelity", "optimizer update"]

_LETTERS: dict[str, Role] = {letter: role for role, letter in ROLE_LETTERS.items()}
FACTORIAL = ("W", "A", "G", "M", "WA", "WAG", "AM", "GM", "AGM")
"""Role sets that differ: each alone, built up, and all but one.

Where M is on, the stored grid is the weight operand already, so WAGM is AGM, and leaving W out of it changes
nothing; its other leave-one-out sets are GM, AM and WAG.
"""
FULL = "AGM"
STOCHASTIC = "stochastic"
_LADDER: tuple[tuple[str, Stage, tuple[str, ...]], ...] = (
    ("WA", "forward precision", ("G", "GM")),
    ("WAG", "gradient fidelity", ("WA", "AM")),
    (FULL, "optimizer update", ("WAG", STOCHASTIC)),
)
"""Role sets in the order in which they are built up, the stage that each adds, and the sets without it."""
RESCUED_BY = 0.2
"""How much rho a rescue has to add to confirm a stage: five times what a seed moves it."""


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
    """The role factorial of the failing format arm ``arm``, and the arm that may rescue its update.

    The full set is ``arm`` itself; W, A and G with float32 masters are the other rescue of the update.
    """
    for letters in FACTORIAL:
        if letters != role_letters(arm):
            yield _part(
                arm, f"only-{letters.lower()}", "attribution", _with_roles(arm.config, letters), letters
            )
    stochastic = replace(arm.config, precision=replace(arm.config.precision, rounding="stochastic"))
    yield _part(arm, "rescue-stochastic", "rescue", stochastic, "the update, and that stochastically,")


def _with_roles(config: TrainConfig, letters: str) -> TrainConfig:
    if letters == "WAG":  # the regime `standard`, under the name by which it may be in the sweep already
        return replace(config, precision=replace(config.precision, regime="standard", roles=None))
    return replace(config, precision=replace(config.precision, regime="uniform", roles=role_set(letters)))


def _part(arm: Arm, suffix: str, kind: ArmKind, config: TrainConfig, what: str) -> Arm:
    return replace(
        arm,
        name=f"{arm.name}-{suffix}",
        kind=kind,
        config=config,
        retry_of=arm.name,
        reason=f"{what} rounded, the rest as in {arm.name} without it" if kind == "attribution" else what,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """Which stage fails, by how much, and what confirms it."""

    arm: str
    stage: Stage | None
    """None: no stage was confirmed."""
    explanation: str
    confirmed_by: str | None
    """The role set, or ``stochastic``, whose rescue confirms the stage."""
    rho: Mapping[str, float | None]
    """Role set (and ``stochastic``) -> recovered fraction; None: not finished."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "arm": self.arm,
            "stage": self.stage,
            "explanation": self.explanation,
            "confirmed_by": self.confirmed_by,
            "rho": dict(self.rho),
        }


def rho_by_roles(arm: Arm, arms: Sequence[Arm], rhos: Mapping[str, float | None]) -> dict[str, float | None]:
    """Recovered fraction of every role set of ``arm``'s factorial; an arm shared with another part counts."""
    by_config = {other.config: rhos.get(other.name) for other in arms}
    wanted = {
        letters: _with_roles(arm.config, letters) for letters in FACTORIAL if letters != role_letters(arm)
    }
    stochastic = replace(arm.config, precision=replace(arm.config.precision, rounding="stochastic"))
    return {
        **{letters: by_config.get(config) for letters, config in wanted.items()},
        role_letters(arm): rhos.get(arm.name),
        STOCHASTIC: by_config.get(stochastic),
    }


def attribute(arm: str, rho: Mapping[str, float | None]) -> Attribution:
    """Read the factorial of ``arm``: the first stage that fails as roles are added, if undoing it helps.

    Args:
        rho: recovered fraction of every set of ``FACTORIAL`` and of ``stochastic``. NaN (a non-finite run)
            counts as failed; None (not run) leaves what depends on it open.
    """
    stage, rescues = _suspect(rho)
    full = rho.get(FULL)
    gains = {}
    for name in rescues:
        rescued = rho.get(name)
        if rescued is not None and full is not None:
            gains[name] = rescued - (0.0 if math.isnan(full) else full)
    best = max(gains, key=lambda name: gains[name], default=None)
    confirmed = best is not None and gains[best] >= RESCUED_BY
    if stage is None:
        explanation = "the arms that would tell are missing, or none of them fails"
    elif best is None or not confirmed:
        explanation = f"{stage} is suspected, but undoing it alone does not bring the run back"
    else:
        how = "stochastic rounding of the update" if best == STOCHASTIC else f"rounding only {best}"
        explanation = f"{how} raises rho by {gains[best]:.2f} to {rho[best]:.2f}"
    return Attribution(
        arm=arm,
        stage=stage if confirmed else None,
        explanation=explanation,
        confirmed_by=best if confirmed else None,
        rho=rho,
    )


def _suspect(rho: Mapping[str, float | None]) -> tuple[Stage | None, tuple[str, ...]]:
    """The first stage that fails as roles are added, and the arms that undo that stage alone."""
    for letters, stage, rescues in _LADDER:
        value = rho.get(letters)
        if value is None:
            return None, ()
        if not value >= FAILED_BELOW:
            return stage, rescues
    return None, ()
