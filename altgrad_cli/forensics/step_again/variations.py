"""The recorded step under a variation: did it survive, and what did the update do?

A variation is another configuration, another plan, or another thing that the step is given; the step itself
is ``training.step.compute_step``, the function that trained. Each variation is tried once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES, ROLES, PrecisionConfig, Role
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.gradient import SHADOW_COLUMNS, gradient_cosine, measure_shadow
from altgrad_cli.surgery.linear import Scales
from altgrad_cli.surgery.precision_plan import (
    PrecisionPlan,
    plan_precision,
    without_rounding,
)
from altgrad_cli.training.measuring.reduce import pool
from altgrad_cli.training.measuring.updates import read_update
from altgrad_cli.training.state import TrainState, encode_stored_weights, fresh_scales
from altgrad_cli.training.step import Step, compute_step
from altgrad_cli.updates.registry import build_rule
from altgrad_cli.updates.rule import UpdateRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a step came to. None where a quantity could not be measured."""

    survives: bool
    """Loss, gradient, every rounding's input and the updated weights are finite."""
    stopped_by: str | None
    """What was not finite, in words."""
    loss: float | None = None
    gradient_norm: float | None = None
    overflow_rate: float | None = None
    transfer: float | None = None
    """tau of the stored weights: 0 frozen, 1 faithful; float32 masters are."""
    stall: float | None = None
    """Share of updated weights whose stored value did not change."""
    cosine: float | None = None
    """Cosine of the gradient and its float32 shadow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepVariation:
    """One change of the recorded step; what is not said is as recorded."""

    config: TrainConfig | None = None
    format: str | None = None
    """The format under study."""
    plan: PrecisionPlan | None = None
    """None: that of the configuration and the format."""
    learning_rate: float | None = None
    fresh_amax: bool = False
    """Every delayed scale is taken from the tensor itself, as after a warm start."""
    other_batch: bool = False
    without_faults: bool = False
    """Planted faults do not strike again."""


AS_RECORDED = StepVariation()


def unrounded(plan: PrecisionPlan, role: Role | None = None) -> StepVariation:
    """One role of ``plan`` left in float32, or all of them."""
    return StepVariation(plan=without_rounding(plan, role=role))


def with_precision(config: TrainConfig, precision: PrecisionConfig) -> StepVariation:
    """``config`` with other settings of its precision."""
    return StepVariation(config=replace(config, precision=precision))


def stochastic_update(config: TrainConfig) -> StepVariation:
    """The update of the stored weights rounded stochastically."""
    return with_precision(config, replace(config.precision, rounding="stochastic"))


def with_rule(config: TrainConfig, rule: str) -> StepVariation:
    """Another update rule at its own rate; what memory it shares with the run's it takes over."""
    optimizer = replace(config.optimizer, rule=rule, base="adamw", residual="float32")
    return StepVariation(config=replace(config, optimizer=optimizer))


def in_bf16(plan: PrecisionPlan, names: Sequence[str]) -> StepVariation:
    """The layers ``names`` of ``plan`` in BF16 on float32 masters."""
    bf16 = tuple((role, parse_format("BF16")) for role in OPERAND_ROLES)
    layers = tuple(
        replace(layer, formats=bf16, recipe="none") if layer.name in names else layer for layer in plan.layers
    )
    return StepVariation(plan=replace(plan, layers=layers))


def rounded_roles(plan: PrecisionPlan) -> list[Role]:
    """The roles that ``plan`` rounds anywhere."""
    return [role for role in ROLES if any(layer.format_of(role) for layer in plan.layers)]


_Resolved = tuple[TrainConfig, PrecisionPlan, StepVariation]
"""The configuration and the plan of a variation, and the rest of it: two that are equal are one."""


@dataclass(frozen=True, slots=True)
class Trials:
    """The recorded step, and what it came to under each variation that was tried; its state stays."""

    given: ReplayState
    shadow: Tensor | None
    """The float32 gradient of the recorded batch, to compare with."""
    recorded: Outcome | None = None
    """The step as recorded, where it was taken already."""
    _outcomes: dict[_Resolved, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.recorded is not None:
            self._outcomes[self._resolve(AS_RECORDED)] = self.recorded

    def outcome(self, variation: StepVariation) -> Outcome:
        """What the step comes to under ``variation``.

        Raises:
            AltgradError: the variation cannot be made, or the step has no batch.
        """
        resolved = self._resolve(variation)
        if resolved not in self._outcomes:
            given, (config, plan, _) = self.given, resolved
            with _varied(given.state, config, plan) as state:
                step = compute_step(
                    state,
                    given.another_batch() if variation.other_batch else given.given_batch(),
                    learning_rate=variation.learning_rate,
                    scales=_fresh_amax(state) if variation.fresh_amax else None,
                    faults=None if variation.without_faults else given.faults,
                )
                shadow = None if variation.other_batch else self.shadow
                self._outcomes[resolved] = outcome_of(state, step, shadow)
        return self._outcomes[resolved]

    def _resolve(self, variation: StepVariation) -> _Resolved:
        state = self.given.state
        config, name = variation.config or state.config, variation.format or state.format
        plan = variation.plan or plan_precision(config.precision, name, state.layer_kinds)
        return config, plan, replace(variation, config=None, format=None, plan=None)


def outcome_of(state: TrainState, step: Step, shadow: Tensor | None) -> Outcome:
    """What ``step`` came to, its update measured; ``shadow`` is the float32 gradient of its batch."""
    transfer, stall = _update_effect(state, step)
    norm = step.clip.norm
    return Outcome(
        survives=step.finite,
        stopped_by=None if step.finite else step.first_nonfinite(state),
        loss=step.summary.loss,
        gradient_norm=float(torch.linalg.vector_norm(step.result.gradient)) if norm is None else norm,
        overflow_rate=step.summary.overflow_rate,
        transfer=transfer,
        stall=stall,
        cosine=_cosine(state, step, shadow),
    )


@contextmanager
def _varied(state: TrainState, config: TrainConfig, plan: PrecisionPlan) -> Iterator[TrainState]:
    """The state under another config and plan; its weights are put back afterwards.

    Where the grid of stored weights changes they are encoded anew, as an emergency shift would.
    """
    variant = replace(
        state,
        config=config,
        plan=plan,
        optimizer=_rule_for(state, config),
        stored_scales=list(state.stored_scales),
        scales=fresh_scales(plan, config),
    )
    for histories, recorded in zip(variant.scales.histories, state.scales.histories, strict=True):
        for history, source in zip(histories, recorded, strict=True):
            if history is not None and source is not None:
                history.values = source.values
    moved = [
        layer for layer in range(len(state.layers)) if variant.stored_grid(layer) != state.stored_grid(layer)
    ]
    kept = state.flat.values.clone() if moved else None
    try:
        with suppress(AltgradError):  # weights that are not finite have no scale; the step will show it
            encode_stored_weights(variant, moved)
        yield variant
    finally:
        if kept is not None:
            state.flat.values.copy_(kept)


def _rule_for(state: TrainState, config: TrainConfig) -> UpdateRule:
    """The state's own rule, or where ``config`` has another, that one with what memory they share."""
    if config.optimizer == state.config.optimizer:
        return state.optimizer
    return build_rule(config.optimizer, state.flat, like=state.optimizer)


def _fresh_amax(state: TrainState) -> Scales:
    current, layers = state.scales.current(state.plan, state.config), state.plan.layers
    return {place: scales for place, scales in current.items() if layers[place[0]].recipe != "delayed"}


def _update_effect(state: TrainState, step: Step) -> tuple[float | None, float | None]:
    """(tau, stall) as the engine measures them: over the stored weights that live on a grid."""
    if not step.finite:
        return None, None
    read_update(state, step)
    metrics = step.summary.measured.metrics
    if state.plan.stores_weights:
        return metrics["update_transfer"], metrics["bit_stall_rate"]
    return (1.0, 0.0) if metrics["update_norm"] else (None, None)  # float32 masters take all of it


def _cosine(state: TrainState, step: Step, shadow: Tensor | None) -> float | None:
    if shadow is None:
        return None
    sums = measure_shadow(state.flat.layout(blocks_only=False), step.result.gradient, shadow).tolist()
    cosine = gradient_cosine(pool(SHADOW_COLUMNS, sums))
    return None if cosine is None or math.isnan(cosine) else cosine
