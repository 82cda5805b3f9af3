"""Which stage is to blame: the same step with one rounding bypassed at a time.

Forward precision (roles W and A), gradient fidelity (role G) or the optimizer's update (role M); or not the
format's fault, when the step fails with every rounding bypassed too. "Unknown" is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from altgrad_cli.checkpoints.payload import StruckFault
from altgrad_cli.config.precision import ROLES, Role
from altgrad_cli.forensics.attempt import Outcome, attempt
from altgrad_cli.forensics.provenance import AmaxSuspect
from altgrad_cli.forensics.scene import Scene
from altgrad_cli.metrics.thresholds import FAITHFUL_FROM, MISLED_BELOW, STALLED_UP_TO, UNDERFLOWED_FROM
from altgrad_cli.notation import decimals
from altgrad_cli.surgery.precision_plan import PrecisionPlan, without_rounding
from altgrad_cli.training.origin import FirstNonfinite

STAGE: dict[str, str] = {
    "weights": "forward precision",
    "activations": "forward precision",
    "gradients": "gradient fidelity",
    "stored_weights": "optimizer update",
    "optimizer_state": "optimizer update",
}
NOT_THE_FORMAT = "not the format's fault"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attribution:
    """The step with each role's rounding bypassed."""

    recorded: Outcome
    none_rounded: Outcome
    bypassed: Mapping[Role, Outcome]
    """Only the roles that are rounded at all."""
    stochastic: Outcome | None
    """The update rounded stochastically; None without stored weights on a grid."""

    @property
    def attempts(self) -> dict[str, Outcome]:
        """Every outcome by what was changed."""
        tried = {"as recorded": self.recorded, "every rounding bypassed": self.none_rounded}
        tried |= {f"{role} bypassed": outcome for role, outcome in self.bypassed.items()}
        return tried | ({"update rounded stochastically": self.stochastic} if self.stochastic else {})


@dataclass(frozen=True, slots=True)
class Mechanism:
    """The verdict, and what it rests on."""

    stage: str | None
    """None where nothing failed."""
    evidence: tuple[str, ...]
    attempts: Mapping[str, Outcome] = field(default_factory=dict)
    """The step as recorded and under each bypass, by what was changed."""


def attribute(scene: Scene, shadow: Tensor | None) -> Attribution:
    """Try the step as recorded, with nothing rounded, and with each role bypassed in turn."""
    plan = scene.state.plan
    used = [role for role in ROLES if any(layer.format_of(role) for layer in plan.layers)]
    return Attribution(
        recorded=attempt(scene, shadow=shadow),
        none_rounded=attempt(scene, plan=without_rounding(plan), shadow=shadow),
        bypassed={
            role: attempt(scene, plan=without_rounding(plan, role=role), shadow=shadow) for role in used
        },
        stochastic=attempt(scene, plan=_stochastic(plan), shadow=shadow) if plan.stores_weights else None,
    )


def _stochastic(plan: PrecisionPlan) -> PrecisionPlan:
    return replace(plan, stochastic_update=True)


def explain_nonfinite(
    first: FirstNonfinite | None,
    attribution: Attribution | None,
    suspects: Sequence[AmaxSuspect],
    struck: Sequence[StruckFault],
) -> Mechanism:
    """The stage behind a step that was not finite."""
    told = tuple(_struck_words(fault) for fault in struck)
    if first is not None and first.producer == "state":
        where = "Adam's moments" if first.record.role == "optimizer_state" else "the weights"
        return Mechanism(NOT_THE_FORMAT, (f"{where} were not finite before the step began", *told))
    if first is not None and first.producer == "data":
        return Mechanism(NOT_THE_FORMAT, ("the embedded batch was not finite, its embeddings were", *told))
    if attribution is None:
        return Mechanism(UNKNOWN, ("the step could not be repeated", *told))
    if attribution.recorded.survives:
        return Mechanism(UNKNOWN, ("the step does not fail when it is repeated", *told))
    if not attribution.none_rounded.survives:
        stopped = attribution.none_rounded.stopped_by
        evidence = [f"with every rounding bypassed the step fails too ({stopped})"]
        if first is not None and first.producer == "unexplained":
            evidence.append(f"{first.record.role} of {first.record.module} changed where no operation is")
        return Mechanism(NOT_THE_FORMAT, (*evidence, *told))
    evidence = ["with every rounding bypassed the step survives"]
    saving = [role for role, outcome in attribution.bypassed.items() if outcome.survives]
    evidence += [f"with {role} left in float32 it survives" for role in saving]
    lied = _lying_history(first, suspects)
    if lied is not None:
        evidence.append(lied)
    role = first.record.role if first is not None else None
    if role in saving:
        return Mechanism(STAGE[str(role)], (*evidence, *told))
    if saving:
        return Mechanism(STAGE[saving[0]], (*evidence, *told))
    if role in STAGE:
        evidence.append("no single role's bypass saves it; the first non-finite value is in this one")
        return Mechanism(STAGE[str(role)], (*evidence, *told))
    return Mechanism(UNKNOWN, (*evidence, *told))


def _lying_history(first: FirstNonfinite | None, suspects: Sequence[AmaxSuspect]) -> str | None:
    for suspect in suspects:
        same = first is not None and (suspect.module, suspect.role) == (
            first.record.module,
            first.record.role,
        )
        if same or first is None:
            return (
                f"the amax history of {suspect.role} of {suspect.module} foresaw "
                f"{suspect.history:.3g} and the tensor had {suspect.amax:.3g}, "
                f"{suspect.factor:.3g} times as much"
            )
    return None


def _struck_words(fault: StruckFault) -> str:
    place = fault.module or "the process"
    return f"planted fault: {fault.injection} struck {fault.role} of {place}"


def explain_stall(attribution: Attribution | None, zeroed: Mapping[str, float | None]) -> Mechanism:
    """The stage behind weights that stopped moving.

    ``zeroed``: pooled share of values rounded to 0, by role.
    """
    if attribution is None:
        return Mechanism(UNKNOWN, ("the step could not be repeated",))
    now = attribution.recorded.transfer
    master = attribution.bypassed.get("stored_weights")
    dead = {role: share for role, share in zeroed.items() if share is not None and share >= UNDERFLOWED_FROM}
    stalled = decimals(attribution.recorded.stall, 4)
    evidence = [f"as recorded, update transfer tau = {decimals(now, 4)}, stalled share {stalled}"]
    if attribution.stochastic is not None:
        evidence.append(
            f"update rounded stochastically: tau = {decimals(attribution.stochastic.transfer, 4)}"
        )
    if master is not None:
        evidence.append(f"float32 masters: tau = {decimals(master.transfer, 4)}")
    evidence += [f"{share:.0%} of the {role} are rounded to 0" for role, share in dead.items()]
    tried = [outcome.transfer for outcome in (attribution.stochastic, master) if outcome is not None]
    restored = any(transfer is not None and transfer >= FAITHFUL_FROM for transfer in tried)
    if "gradients" in dead:
        return Mechanism(STAGE["gradients"], tuple(evidence))
    if now is not None and now <= STALLED_UP_TO and restored:
        evidence.append("the gradient is there and the update is made, but the grid does not take it")
        return Mechanism(STAGE["stored_weights"], tuple(evidence))
    return Mechanism(UNKNOWN, tuple(evidence))


def explain_divergence(attribution: Attribution | None) -> Mechanism:
    """The stage behind a rising loss: one step shows little but whether its gradient is the true one."""
    if attribution is None or attribution.recorded.cosine is None:
        return Mechanism(UNKNOWN, ("the gradient could not be compared with its float32 shadow",))
    cosine = attribution.recorded.cosine
    evidence = f"cosine of the gradient and its float32 shadow: {cosine:.4f}"
    return Mechanism(STAGE["gradients"] if cosine < MISLED_BELOW else UNKNOWN, (evidence,))
