"""Which stage is to blame: the same step with one rounding bypassed at a time.

Forward precision (roles W and A), gradient fidelity (role G) or the optimizer's update (role M); or not the
format's fault, when the step fails with every rounding bypassed too. "Unknown" is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from altgrad_cli.checkpoints.payload import StruckFault
from altgrad_cli.config.precision import Role
from altgrad_cli.forensics.failure import DIVERGENCE, NONFINITE, STALL, FailureClass
from altgrad_cli.forensics.provenance import AmaxSuspect
from altgrad_cli.forensics.step_again.variations import (
    AS_RECORDED,
    Outcome,
    Trials,
    rounded_roles,
    stochastic_update,
    unrounded,
)
from altgrad_cli.metrics.thresholds import FAITHFUL_FROM, MISLED_BELOW, STALLED_UP_TO, UNDERFLOWED_FROM
from altgrad_cli.notation import decimals
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
Explanation = tuple[str, list[str]]
"""A stage, and the evidence for it."""


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


def attribute(trials: Trials) -> Attribution:
    """Try the step as recorded, with nothing rounded, and with each role bypassed in turn."""
    state = trials.given.state
    plan = state.plan
    return Attribution(
        recorded=trials.outcome(AS_RECORDED),
        none_rounded=trials.outcome(unrounded(plan)),
        bypassed={role: trials.outcome(unrounded(plan, role)) for role in rounded_roles(plan)},
        stochastic=trials.outcome(stochastic_update(state.config)) if plan.stores_weights else None,
    )


def explain(
    kind: FailureClass,
    attribution: Attribution | None,
    first: FirstNonfinite | None,
    suspects: Sequence[AmaxSuspect],
    struck: Sequence[StruckFault],
    zeroed: Mapping[str, float | None],
) -> Mechanism:
    """The stage behind a failure of this kind, with every attempt that was made to find it.

    Args:
        struck: planted faults that struck this step.
        zeroed: pooled share of values rounded to 0, by role.
    """
    stage: str | None = None
    evidence: list[str] = []
    if kind == NONFINITE:
        stage, evidence = _nonfinite(first, attribution, suspects)
        evidence += [
            f"planted fault: {fault.injection} struck {fault.role} of {fault.module or 'the process'}"
            for fault in struck
        ]
    elif kind == STALL:
        stage, evidence = _stall(attribution, zeroed)
    elif kind == DIVERGENCE:
        stage, evidence = _divergence(attribution)
    return Mechanism(stage, tuple(evidence), {} if attribution is None else attribution.attempts)


def _nonfinite(
    first: FirstNonfinite | None, attribution: Attribution | None, suspects: Sequence[AmaxSuspect]
) -> Explanation:
    """The stage behind a step that was not finite."""
    if first is not None and first.producer == "state":
        where = "Adam's moments" if first.record.role == "optimizer_state" else "the weights"
        return NOT_THE_FORMAT, [f"{where} were not finite before the step began"]
    if first is not None and first.producer == "data":
        return NOT_THE_FORMAT, ["the embedded batch was not finite, its embeddings were"]
    if attribution is None:
        return UNKNOWN, ["the step could not be repeated"]
    if attribution.recorded.survives:
        return UNKNOWN, ["the step does not fail when it is repeated"]
    if not attribution.none_rounded.survives:
        stopped = attribution.none_rounded.stopped_by
        evidence = [f"with every rounding bypassed the step fails too ({stopped})"]
        if first is not None and first.producer == "unexplained":
            evidence.append(f"{first.record.role} of {first.record.module} changed where no operation is")
        return NOT_THE_FORMAT, evidence
    evidence = ["with every rounding bypassed the step survives"]
    saving = [role for role, outcome in attribution.bypassed.items() if outcome.survives]
    evidence += [f"with {role} left in float32 it survives" for role in saving]
    evidence += _lying_history(first, suspects)
    role = first.record.role if first is not None else None
    if saving:
        return STAGE[role if role in saving else saving[0]], evidence
    if role in STAGE:
        evidence.append("no single role's bypass saves it; the first non-finite value is in this one")
        return STAGE[role], evidence
    return UNKNOWN, evidence


def _lying_history(first: FirstNonfinite | None, suspects: Sequence[AmaxSuspect]) -> list[str]:
    """The amax history of the first non-finite operand (or of any), where it was far off."""
    return [
        f"the amax history of {suspect.role} of {suspect.module} foresaw {suspect.history:.3g} "
        f"and the tensor had {suspect.amax:.3g}, {suspect.factor:.3g} times as much"
        for suspect in suspects
        if first is None or (suspect.module, suspect.role) == (first.record.module, first.record.role)
    ][:1]


def _stall(attribution: Attribution | None, zeroed: Mapping[str, float | None]) -> Explanation:
    """The stage behind weights that stopped moving."""
    if attribution is None:
        return UNKNOWN, ["the step could not be repeated"]
    now, stalled = attribution.recorded.transfer, attribution.recorded.stall
    evidence = [
        f"as recorded, update transfer tau = {decimals(now, 4)}, stalled share {decimals(stalled, 4)}"
    ]
    remedies = {
        "update rounded stochastically": attribution.stochastic,
        "float32 masters": attribution.bypassed.get("stored_weights"),
    }
    tried = {words: outcome.transfer for words, outcome in remedies.items() if outcome is not None}
    evidence += [f"{words}: tau = {decimals(transfer, 4)}" for words, transfer in tried.items()]
    dead = {role: share for role, share in zeroed.items() if share is not None and share >= UNDERFLOWED_FROM}
    evidence += [f"{share:.0%} of the {role} are rounded to 0" for role, share in dead.items()]
    if "gradients" in dead:
        return STAGE["gradients"], evidence
    restored = any(transfer is not None and transfer >= FAITHFUL_FROM for transfer in tried.values())
    if now is not None and now <= STALLED_UP_TO and restored:
        evidence.append("the gradient is there and the update is made, but the grid does not take it")
        return STAGE["stored_weights"], evidence
    return UNKNOWN, evidence


def _divergence(attribution: Attribution | None) -> Explanation:
    """The stage behind a rising loss: one step shows little but whether its gradient is the true one."""
    cosine = None if attribution is None else attribution.recorded.cosine
    if cosine is None:
        return UNKNOWN, ["the gradient could not be compared with its float32 shadow"]
    evidence = [f"cosine of the gradient and its float32 shadow: {cosine:.4f}"]
    return STAGE["gradients"] if cosine < MISLED_BELOW else UNKNOWN, evidence
