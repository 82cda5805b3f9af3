"""What would have saved the step: formats, roundings, scalings, single roles, and the usual remedies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, NamedTuple

from altgrad_cli.config.loading import as_word, flat, resolve
from altgrad_cli.config.precision import Recipe, Role, RoundingMode
from altgrad_cli.config.update_rules import RULES, default_rate
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.forensics.step_again.variations import (
    AS_RECORDED,
    Outcome,
    StepVariation,
    Trials,
    rounded_roles,
    stochastic_update,
    unrounded,
    with_precision,
    with_rule,
)
from altgrad_cli.formats import parse_format

Kind = Literal["recorded", "format", "role", "scale", "overflow", "update", "rule", "input"]
GRID_FORMATS = ("E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E5M2", "E6M1", "E7M0", "BF16", "FP16")
RECIPES: tuple[Recipe, ...] = ("none", "amax", "delayed")


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One change, and the step under it. ``outcome`` is None where the change cannot be made."""

    kind: Kind
    change: str
    outcome: Outcome | None = field(metadata={"merged": {"survives": None}})
    overrides: tuple[str, ...]
    """``key=value`` that make this change for a run; empty where no configuration can."""
    reason: str | None = None
    format: str | None = None
    rounding: str | None = None
    scaling: str | None = None

    @property
    def survives(self) -> bool | None:
        """Whether the step survived under the change; None where it cannot be made."""
        return None if self.outcome is None else self.outcome.survives


class Change(NamedTuple):
    """A row of the table of what is tried."""

    kind: Kind
    words: str
    overrides: tuple[str, ...]
    variation: StepVariation


def what_if(trials: Trials) -> Iterator[Counterfactual]:
    """The step as recorded and under every remedy, then under every format of the study.

    Of formats in blocks a few, and none twice: blocks take their scales from the tensor whatever is asked.
    """
    for change in remedies(trials.given):
        yield _counterfactual(trials, change)
    stored = trials.given.state.plan.stores_weights
    roundings: tuple[RoundingMode, ...] = ("nearest", "stochastic" if stored else "stochastic_all")
    whole = product(GRID_FORMATS, roundings, RECIPES)
    in_blocks: tuple[Recipe, ...] = ("amax",)
    blocks = product(_in_blocks(trials.given.state.format), roundings, in_blocks)
    for name, rounding, recipe in (*whole, *blocks):
        change = _on_grid(trials.given, name, rounding, recipe)
        tried = _counterfactual(trials, change)
        yield replace(tried, format=change.variation.format, rounding=rounding, scaling=recipe)


def _in_blocks(name: str) -> tuple[str, ...]:
    """The formats in blocks that are tried for a run in ``name``: MXFP8, the run's own as MX, and NVFP4."""
    fmt = parse_format(name)
    own = () if fmt.block.name or fmt.width > 8 else (parse_format(f"{name}@32:e8m0").name,)
    return tuple(dict.fromkeys(("MXFP8_E4M3", *own, "NVFP4")))


def _counterfactual(trials: Trials, change: Change) -> Counterfactual:
    try:
        outcome, reason = trials.outcome(change.variation), None
    except AltgradError as error:
        outcome, reason = None, error.message
    return Counterfactual(change.kind, change.words, outcome, change.overrides, reason)


def remedies(given: ReplayState) -> Iterator[Change]:
    """The step as recorded, then every change but the grid of formats."""
    config, plan = given.state.config, given.state.plan
    precision, scaling = config.precision, config.precision.scaling
    yield Change("recorded", "as recorded", (), AS_RECORDED)
    for role in rounded_roles(plan):
        yield Change("role", f"{role} left in float32", _roles_without(given, role), unrounded(plan, role))
    yield Change("role", "nothing rounded", ("precision.regime=fp32",), unrounded(plan))
    if precision.overflow == "ieee":
        saturating = with_precision(config, replace(precision, overflow="saturate"))
        yield Change("overflow", "saturating instead of inf", ("precision.overflow=saturate",), saturating)
    if any(layer.recipe == "delayed" for layer in plan.layers):
        yield Change("scale", "fresh amax (history forgotten)", (), StepVariation(fresh_amax=True))
        for factor in (2.0, 4.0, 16.0):
            margin = scaling.margin * factor
            words = f"margin {margin:g} instead of {scaling.margin:g}"
            wider = with_precision(config, replace(precision, scaling=replace(scaling, margin=margin)))
            yield Change("scale", words, (f"precision.scaling.margin={margin:g}",), wider)
    clipped = StepVariation(config=replace(config, optimizer=replace(config.optimizer, gradient_clip=1.0)))
    yield Change("update", "gradient clipped to norm 1", ("optimizer.gradient_clip=1.0",), clipped)
    tenth = StepVariation(learning_rate=given.learning_rate / 10)
    yield Change("update", "learning rate / 10", (f"learning_rate={config.learning_rate / 10:g}",), tenth)
    if plan.stores_weights:
        stochastic = stochastic_update(config)
        words = "update rounded stochastically"
        yield Change("update", words, ("precision.rounding=stochastic",), stochastic)
    yield from _other_rules(given)
    yield Change("input", "another batch", (), StepVariation(other_batch=True))
    if given.faults.due(given.step):
        yield Change("input", "without the planted fault", (), StepVariation(without_faults=True))


def _other_rules(given: ReplayState) -> Iterator[Change]:
    """The step by every other update rule, at the rule's own rate; for a new run, not to resume with."""
    config, used = given.state.config, given.state.config.optimizer.rule
    for rule, facts in RULES.items():
        if rule == used:
            continue
        factor = facts.default_rate / default_rate(used)
        variation = with_rule(config, rule)
        overrides = [f"optimizer.rule={rule}"]
        words = f"update rule {rule}"
        if factor != 1:
            variation = replace(variation, learning_rate=given.learning_rate * factor)
            overrides.append(f"learning_rate={config.learning_rate * factor:g}")
            words += f" at {factor:g} times the rate"
        yield Change("rule", words, tuple(overrides), variation)


def _on_grid(given: ReplayState, name: str, rounding: RoundingMode, recipe: Recipe) -> Change:
    """The format ``name`` under study, in the recorded regime; a finite one saturates."""
    config, fmt = given.state.config, parse_format(name)
    precision = config.precision
    if fmt != parse_format(given.state.format):
        precision = precision.for_another_format()
    changed = replace(
        config,
        fp8_format=fmt.name,
        enable_partition_clipping=False,
        precision=replace(
            precision,
            regime="standard" if precision.regime == "bf16" else precision.regime,
            rounding=rounding,
            overflow=precision.overflow if fmt.has_specials else "saturate",
            scaling=replace(precision.scaling, recipe=recipe),
        ),
    )
    overrides = [
        f"fp8_format={fmt.name}",
        f"precision.rounding={rounding}",
        f"precision.scaling.recipe={recipe}",
    ]
    if precision.rules != config.precision.rules:
        overrides.append(f"precision.rules={as_word(flat(resolve(changed))['precision.rules'])}")
    if changed.precision.overflow != precision.overflow:
        overrides.append("precision.overflow=saturate")
    words = f"{fmt.name}, {rounding}, scale {recipe}"
    return Change("format", words, tuple(overrides), StepVariation(config=changed, format=fmt.name))


def _roles_without(given: ReplayState, role: Role) -> tuple[str, ...]:
    """The override that leaves ``role`` out of the study format's roles."""
    plan = given.state.plan
    if role == "weights" and plan.stores_weights:
        return ()  # only the head's: the stored weights are their own operand
    kept = [other for other in rounded_roles(plan) if other != role]
    if role != "weights" and plan.stores_weights and "weights" not in kept and role != "stored_weights":
        kept.insert(0, "weights")  # with role M on, W is the stored grid itself
    return (f"precision.roles={','.join(kept)}",) if kept else ("precision.regime=fp32",)
