"""What would have saved the step: formats, roundings, scalings, single roles, and the usual remedies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from altgrad_cli.config.precision import ROLES, Recipe
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError, ConfigError
from altgrad_cli.forensics.attempt import Outcome, attempt
from altgrad_cli.forensics.scene import Scene, another_batch, plan_for
from altgrad_cli.formats import parse_format
from altgrad_cli.surgery.linear import Scales
from altgrad_cli.surgery.precision_plan import without_rounding
from altgrad_cli.training.state import TrainState

Kind = Literal["recorded", "format", "role", "scale", "overflow", "update", "input"]
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


def remedies(scene: Scene, shadow: Tensor | None) -> Iterator[Counterfactual]:
    """The step as recorded, then every change but the grid of formats."""
    state, config = scene.state, scene.state.config
    scaling = config.precision.scaling
    yield _try(scene, shadow, "recorded", "as recorded", ())
    for role in ROLES:
        if any(layer.format_of(role) for layer in state.plan.layers):
            kept = _roles_without(scene, role)
            plan = without_rounding(state.plan, role=role)
            yield _try(scene, shadow, "role", f"{role} left in float32", kept, plan=plan)
    plan = without_rounding(state.plan)
    yield _try(scene, shadow, "role", "nothing rounded", ("precision.regime=fp32",), plan=plan)
    if config.precision.overflow == "ieee":
        yield _under(scene, shadow, "overflow", "saturating instead of inf", overflow="saturate")
    if any(layer.recipe == "delayed" for layer in state.plan.layers):
        yield _try(scene, shadow, "scale", "fresh amax (history forgotten)", (), scales=_fresh_scales)
        for factor in (2.0, 4.0, 16.0):
            margin = scaling.margin * factor
            changed = _with(config, scaling=replace(scaling, margin=margin))
            override = (f"precision.scaling.margin={margin:g}",)
            yield _try(
                scene,
                shadow,
                "scale",
                f"margin {margin:g} instead of {scaling.margin:g}",
                override,
                config=changed,
            )
    clipped = replace(config, optimizer=replace(config.optimizer, gradient_clip=1.0))
    override = ("optimizer.gradient_clip=1.0",)
    yield _try(scene, shadow, "update", "gradient clipped to norm 1", override, config=clipped)
    tenth = scene.learning_rate / 10
    yield _try(
        scene,
        shadow,
        "update",
        "learning rate / 10",
        (f"learning_rate={config.learning_rate / 10:g}",),
        learning_rate=tenth,
    )
    if state.plan.stores_weights:
        yield _under(scene, shadow, "update", "update rounded stochastically", rounding="stochastic")
    other = another_batch(scene)
    if other is None:
        yield Counterfactual("input", "another batch", None, (), "the corpus is not at hand (--data PATH)")
    else:
        yield _try(scene, None, "input", "another batch", (), batch=other)
    if scene.faults.due(scene.step):
        yield _try(scene, shadow, "input", "without the planted fault", (), faults=False)


def format_grid(scene: Scene, shadow: Tensor | None) -> Iterator[Counterfactual]:
    """The step under every format of the study x rounding x scaling, in the recorded regime."""
    config = scene.state.config
    stored = scene.state.plan.stores_weights
    roundings = ("nearest", "stochastic" if stored else "stochastic_all")
    for name in GRID_FORMATS:
        for rounding in roundings:
            for recipe in RECIPES:
                yield _grid_entry(scene, shadow, config, name, rounding, recipe)


def _grid_entry(
    scene: Scene, shadow: Tensor | None, config: TrainConfig, name: str, rounding: str, recipe: Recipe
) -> Counterfactual:
    fmt = parse_format(name)
    precision = config.precision
    special = fmt.has_inf or fmt.has_nan
    changed = replace(
        config,
        fp8_format=fmt.name,
        enable_partition_clipping=False,
        precision=replace(
            precision,
            regime="standard" if precision.regime == "bf16" else precision.regime,
            rounding=rounding,  # type: ignore[arg-type]
            overflow=precision.overflow if special else "saturate",
            scaling=replace(precision.scaling, recipe=recipe),
        ),
    )
    words = f"{fmt.name}, {rounding}, scale {recipe}"
    overrides: tuple[str, ...] = (
        f"fp8_format={fmt.name}",
        f"precision.rounding={rounding}",
        f"precision.scaling.recipe={recipe}",
    )
    if changed.precision.overflow != precision.overflow:
        overrides = (*overrides, "precision.overflow=saturate")
    try:
        plan = plan_for(scene.state, changed, fmt.name)
        outcome = attempt(scene, config=changed, plan=plan, shadow=shadow)
    except AltgradError as error:
        return Counterfactual("format", words, None, overrides, error.message, fmt.name, rounding, recipe)
    return Counterfactual("format", words, outcome, overrides, None, fmt.name, rounding, recipe)


def _try(
    scene: Scene, shadow: Tensor | None, kind: Kind, words: str, overrides: tuple[str, ...], **changes: Any
) -> Counterfactual:
    try:
        outcome = attempt(scene, shadow=shadow, **changes)
    except AltgradError as error:
        return Counterfactual(kind, words, None, overrides, error.message)
    return Counterfactual(kind, words, outcome, overrides)


def _under(scene: Scene, shadow: Tensor | None, kind: Kind, words: str, **precision: Any) -> Counterfactual:
    config = _with(scene.state.config, **precision)
    overrides = tuple(f"precision.{key}={value}" for key, value in precision.items())
    try:
        plan = plan_for(scene.state, config, scene.state.format)
    except ConfigError as error:
        return Counterfactual(kind, words, None, overrides, error.message)
    return _try(scene, shadow, kind, words, overrides, config=config, plan=plan)


def _with(config: TrainConfig, **precision: Any) -> TrainConfig:
    return replace(config, precision=replace(config.precision, **precision))


def _roles_without(scene: Scene, role: str) -> tuple[str, ...]:
    """The override that leaves ``role`` out of the study format's roles."""
    plan = scene.state.plan
    if role == "weights" and plan.stores_weights:
        return ()  # only the head's: the stored weights are their own operand
    kept = [r for r in ROLES if r != role and any(layer.format_of(r) for layer in plan.layers)]
    if role != "weights" and plan.stores_weights and "weights" not in kept and role != "stored_weights":
        kept.insert(0, "weights")  # with role M on, W is the stored grid itself
    return (f"precision.roles={','.join(kept)}",) if kept else ("precision.regime=fp32",)


def _fresh_scales(state: TrainState) -> Scales:
    """Every delayed scale taken from the tensor itself, as after a warm start."""
    return [
        [None if layer.recipe == "delayed" and layer.formats else scale for scale in row]
        for layer, row in zip(state.plan.layers, state.scales.current(state.plan, state.config), strict=True)
    ]
