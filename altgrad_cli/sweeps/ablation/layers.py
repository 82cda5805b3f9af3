"""Which role of which layers does the damage, where a run may well not fail as a whole.

The suspicion comes from the layers' own measures. It becomes a name only by a rescue: the same run with
that role of those layers unrounded, and nothing else, has to give back what layers lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from altgrad_cli.config.precision import Role
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.thresholds import EDGE_WIDTH
from altgrad_cli.runs.record import CONTROLS, RunRecord
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.ablation.restoration import restored
from altgrad_cli.sweeps.ablation.troubles import (
    STAGE_OF,
    STUDIED_ROLES,
    Loss,
    Stage,
    TroubledLayer,
    losses,
    troubled_layers,
    unreached_layers,
)
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.verdicts import JudgedRun

LOST_FROM = 0.5
"""Share of a layer's gradient, or of its updates, from which on it counts as lost."""
GIVEN_BACK_FROM = 0.5
"""Share of the loss that a rescue has to take away."""
BEGUN_FROM = 0.01
"""Share from which on something has begun to return."""
WORST_SHARE = 0.75
"""Share of the worst rate from which on a layer is rescued together with the worst."""
NOISE_FACTOR = 2.0
"""A difference of losses counts when it is this many times what BF16 operands make of the float32 run."""
PLAIN_FACTOR = 4.0
"""A difference of losses confirms by itself from this many times the noise on: 0.2 in rho and more."""

Lookup = Callable[[TrainConfig], RunRecord | None]
"""Configuration -> what its run measured; None: not run, or not finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerAttribution:
    """One suspected role, the layers it sits in, and what its rescue shows."""

    arm: str
    role: Role
    troubled: tuple[TroubledLayer, ...]
    """The evidence: every layer in which the role is in trouble, in this run or once others are rescued."""
    layers: tuple[str, ...]
    """The layers that are named; empty where the rescue confirms none."""
    measure: str
    """What ``given_back`` is a measure of; see ``troubles.losses``."""
    given_back: tuple[Loss, ...]
    """Layers that lost at least half and lose at most half of that with the rescue."""
    unreached: tuple[str, ...]
    """Layers whose values of this role were all zero because of the trouble elsewhere."""
    loss_step: int | None
    """The last step at which both were evaluated."""
    loss_gain: float | None
    """Validation loss less that of the rescue, nats; None where they have no step in common."""
    noise: float | None
    """The largest difference that is put down to noise, nats; None without controls."""
    rescued: TrainConfig
    """The configuration of the rescue."""
    finished: bool
    """Whether the rescue has been run."""

    @property
    def stage(self) -> Stage:
        """The stage of training that the role belongs to."""
        return STAGE_OF[self.role]

    @property
    def confirmed(self) -> bool:
        """Whether the rescue gave back what was lost."""
        return bool(self.layers)

    @property
    def seen_in_loss(self) -> bool | None:
        """Whether the rescue lowers the validation loss by more than noise; None if that is not known."""
        if self.loss_gain is None or self.noise is None:
            return None
        return self.loss_gain > self.noise

    @property
    def worst_loss(self) -> Loss | None:
        """The largest loss that was given back, one in a named layer before all others."""
        return min(
            self.given_back, key=lambda loss: (loss.layer not in self.layers, -loss.before), default=None
        )

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "arm": self.arm,
            "role": self.role,
            "stage": self.stage if self.confirmed else None,
            "cause": self.troubled[0].trouble if self.confirmed else None,
            "layers": list(self.layers),
            "evidence": [asdict(each) for each in self.troubled],
            "measure": self.measure,
            "given_back": [asdict(loss) for loss in self.given_back],
            "unreached": list(self.unreached),
            "val_loss_step": self.loss_step,
            "val_loss_gain": self.loss_gain,
            "val_loss_noise": self.noise,
        }

    def __str__(self) -> str:
        rates = [each.rate for each in self.troubled]
        first = self.troubled[0]
        what = f"{first.trouble} of {self.role} ({first.metric} {min(rates):.3g} to {max(rates):.3g})"
        if not self.finished:
            return f"{self.arm}: {what} is suspected; its rescue has not been run"
        if not self.confirmed:
            return f"{self.arm}: {what} does no damage that undoing it takes away: no cause"
        where = ", ".join(self.layers)
        text = f"{self.arm}: {self.stage}, {what}; measured in {where}"
        worst = self.worst_loss
        if worst is not None:
            text += f"; undone there, {self.measure} of {worst.layer} is {worst.after:.2f} and not "
            text += f"{worst.before:.2f}"
        if self.loss_gain is not None and self.noise is not None:
            seen = "more" if self.seen_in_loss else "no more"
            text += f"; validation loss {self.loss_gain:+.4f} ({seen} than noise, {self.noise:.4f})"
        return text


def attempts(
    config: TrainConfig, role: Role, run: RunRecord, lookup: Lookup
) -> Iterator[tuple[tuple[TroubledLayer, ...], TrainConfig]]:
    """Rescues of ``role`` in ``run``, each with the troubled layers that it restores.

    The worst come first, for trouble spreads: a layer behind one whose gradients vanish may be in trouble for
    no other reason, or be handed nothing but zeros and show no trouble of its own. Each rescue in which more
    layers still are, or turn out to be, in trouble is followed by one that restores the worst of these too.
    ``lookup`` is asked after each rescue was handed out.
    """
    shown = troubled_layers(run, role)
    own = {each.layer: each for each in shown}
    troubled = _worst(shown)
    while troubled:
        layers = [each.layer for each in troubled]
        rescue = restored(config, role, layers, run.kinds)
        yield tuple(troubled), rescue
        found = lookup(rescue)
        more = troubled_layers(found, role) if found is not None else []
        new = _worst([each for each in more if each.layer not in layers])
        if not new:
            return
        new = [own.get(each.layer, replace(each, hidden=True)) for each in new]
        troubled = sorted((*troubled, *new), key=lambda each: run.layers.index(each.layer))


def _worst(troubled: list[TroubledLayer]) -> list[TroubledLayer]:
    """Those near the worst; all of them where updates stall, which no other layer's stall brings about."""
    rates = [each.rate for each in troubled if each.trouble != "stall"]
    limit = WORST_SHARE * max(rates, default=0.0)
    return [each for each in troubled if each.trouble == "stall" or each.rate >= limit]


def layer_attributions(
    arm: Arm, arms: Iterable[Arm], findings: Mapping[str, JudgedRun]
) -> list[LayerAttribution]:
    """The roles in trouble in ``arm``, layer by layer, with what their rescues among ``arms`` show."""
    lookup = records_by_config(arms, findings).get
    return attribute_layers(arm.name, arm.config, findings[arm.name].record, lookup, noise_of(arm, findings))


def records_by_config(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> dict[TrainConfig, RunRecord]:
    """The records of the ``arms`` that have ended, by their configurations."""
    ended = (arm for arm in arms if arm.name in findings and findings[arm.name].record.ended)
    return {arm.config: findings[arm.name].record for arm in ended}


def attribute_layers(
    arm: str, config: TrainConfig, run: RunRecord, lookup: Lookup, noise: float | None
) -> list[LayerAttribution]:
    """For every role that is in trouble somewhere in ``run``: where, and whether its rescue confirms it."""
    return [
        _read(arm, role, run, tried, lookup, noise)
        for role in STUDIED_ROLES
        if (tried := list(attempts(config, role, run, lookup)))
    ]


def _read(
    arm: str,
    role: Role,
    run: RunRecord,
    tried: Sequence[tuple[tuple[TroubledLayer, ...], TrainConfig]],
    lookup: Lookup,
    noise: float | None,
) -> LayerAttribution:
    """Each rescue speaks for the layers that it adds, against the one before it; see ``attempts``."""
    finished = [found for _, rescue in tried if (found := lookup(rescue)) is not None]
    named: set[str] = set()
    asked: set[str] = set()
    telling, before = tried[-1], run
    for troubled, rescue in tried:
        after = lookup(rescue)
        if after is None:
            break
        added = [each.layer for each in troubled if each.layer not in asked]
        confirmed = _confirmed(role, added, before, after, finished[-1], noise)
        if confirmed:
            named.update(confirmed)
            telling = troubled, rescue
        asked.update(added)
        before = after
    troubled, rescue = telling
    found = lookup(rescue)
    measure, pairs = losses(role, run, found) if found is not None else ("", [])
    step, gain = loss_gain(run.validation, found.validation) if found is not None else (None, None)
    return LayerAttribution(
        arm=arm,
        role=role,
        troubled=troubled,
        layers=tuple(each.layer for each in troubled if each.layer in named),
        measure=measure,
        given_back=tuple(loss for loss in pairs if _given_back(loss)) if named else (),
        unreached=tuple(layer for layer in unreached_layers(run, role) if layer not in asked),
        loss_step=step,
        loss_gain=gain,
        noise=noise,
        rescued=rescue,
        finished=found is not None,
    )


def _confirmed(
    role: Role,
    added: Sequence[str],
    before: RunRecord,
    after: RunRecord,
    last: RunRecord,
    noise: float | None,
) -> Sequence[str]:
    """Those of the layers ``added`` to a rescue to which it gives something back.

    What was lost ``before`` it has to begin to return ``after`` it; the rest may wait for the ``last``:
    as long as layers behind it are in trouble, their gradients spoil its own.

    Runs of one seed drift apart by more than a layer is worth, so the loss confirms nothing by itself where
    the layers' own measures are whole; without a shadow, only a difference several times the noise does.
    """
    measure, pairs = losses(role, before, after)
    begun = {loss.layer for loss in pairs if loss.before - loss.after >= BEGUN_FROM}
    hit = begun & {loss.layer for loss in losses(role, before, last)[1] if _given_back(loss)}
    if hit and STAGE_OF[role] == "forward precision":
        return added  # what a forward operand spoils shows in the layers before and behind it
    if hit:
        return [layer for layer in added if layer in hit]
    _, gain = loss_gain(before.validation, after.validation)
    if measure != "gradient_norm" or gain is None or noise is None:
        return ()
    return added if gain > PLAIN_FACTOR * noise else ()


def _given_back(loss: Loss) -> bool:
    return loss.before >= LOST_FROM and loss.after <= loss.before * (1 - GIVEN_BACK_FROM)


def loss_gain(validation: Series, rescue: Series) -> tuple[int, float] | tuple[None, None]:
    """(step, loss less that of the rescue) at the last step both were evaluated at; inf for a NaN."""
    for step, loss in reversed(list(validation)):
        other = rescue.at(step)
        if other is not None:
            return step, math.inf if math.isnan(loss) and math.isfinite(other) else loss - other
    return None, None


def noise_of(arm: Arm, findings: Mapping[str, JudgedRun]) -> float | None:
    """``loss_noise`` by the evaluations of the controls of ``arm``; None where one of them is missing."""
    controls = {regime: findings.get((arm.controls or {}).get(regime, "")) for regime in CONTROLS}
    series = {regime: found.record.validation for regime, found in controls.items() if found is not None}
    return loss_noise(**series) if len(series) == len(CONTROLS) else None


def loss_noise(*, fp32: Series, bf16: Series, frozen: Series) -> float | None:
    """The largest difference between two runs of one seed that is no sign of damage, nats.

    Runs that differ by a harmless rounding drift apart. Twice what BF16 operands make of the float32 run at
    any evaluation, and no less than a seed makes of the recovered fraction; None without common steps.
    """
    apart = [abs(loss - other) for step, loss in fp32 if (other := bf16.at(step)) is not None]
    _, spread = loss_gain(frozen, fp32)
    if not apart or spread is None or not all(map(math.isfinite, [*apart, spread])):
        return None
    return max(NOISE_FACTOR * max(apart), EDGE_WIDTH * abs(spread))
