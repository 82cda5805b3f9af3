"""Which tensor of which layer is rounded onto which grid: configuration in, one frozen plan out.

No torch here: a plan can be made, printed and compared before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from altgrad_cli.config.limits import FLOAT32_WORDS
from altgrad_cli.config.precision import (
    OPERAND_ROLES,
    REGIME_ROLES,
    ROUNDED_STOCHASTICALLY,
    Overflow,
    PrecisionConfig,
    Recipe,
    Role,
)
from altgrad_cli.errors import ConfigError, nearest
from altgrad_cli.formats import FP8Format, parse_format

LayerKind = Literal["head", "normalised", "hidden", "embedding", "untrained"]
"""What a layer is: the head, which keeps a float32 master; fed by a normalisation; any other linear layer; an
embedding that a rule names, whose W alone is rounded, on a float32 master; or one whose weight no optimizer
changes, which is rounded as an operand and stored nowhere."""
UNSTORED: tuple[LayerKind, ...] = ("head", "embedding", "untrained")
"""Those whose weights are not stored on a grid in any regime."""
UNMEASURED: tuple[LayerKind, ...] = ("embedding", "untrained")
"""Those whose weight gradients are not measured one by one."""


@dataclass(frozen=True, slots=True)
class LayerPrecision:
    """The plan for one linear layer; a role absent from ``formats`` stays in float32."""

    name: str
    formats: tuple[tuple[Role, FP8Format], ...]
    recipe: Recipe
    kind: LayerKind = "hidden"

    def format_of(self, role: Role) -> FP8Format | None:
        """The grid of ``role``, or None where it stays in float32."""
        return dict(self.formats).get(role)

    @property
    def delayed_roles(self) -> tuple[Role, ...]:
        """The operands whose scale follows a history of their amax; blocks take theirs from the tensor."""
        if self.recipe != "delayed":
            return ()
        formats = dict(self.formats)
        return tuple(role for role in OPERAND_ROLES if role in formats and formats[role].block.whole)


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """The plan for the whole network, layer by layer as the model lists them, heads last."""

    layers: tuple[LayerPrecision, ...]
    frozen_blocks: bool
    stochastic: tuple[Role, ...] = ()
    """The roles that are rounded stochastically, where they are rounded."""
    hadamard: int | None = None
    """How many tokens of A and G are mixed before they are rounded for dW; None: none."""

    @property
    def stochastic_operands(self) -> bool:
        """Whether a pass draws random numbers for its rounding."""
        return any(role in self.stochastic for role in OPERAND_ROLES)

    @property
    def rounds(self) -> bool:
        """Whether anything is rounded at all."""
        return any(layer.formats for layer in self.layers)

    @property
    def stores_weights(self) -> bool:
        """Whether any layer keeps its weights on the grid (no float32 master copy)."""
        return any(layer.format_of("stored_weights") for layer in self.layers)


def _formats(kind: LayerKind, roles: Sequence[Role], fmt: FP8Format) -> tuple[tuple[Role, FP8Format], ...]:
    if kind in UNSTORED:
        # Most often its weight is the token embedding, which keeps its float32 master in every regime.
        roles = [role for role in roles if role in OPERAND_ROLES]
    # With the stored weights on the grid, the weight operand is that grid: no second rounding.
    return tuple((role, fmt) for role in roles if not (role == "weights" and "stored_weights" in roles))


def _check_overflow(fmt: FP8Format, overflow: Overflow) -> None:
    if overflow == "ieee" and not fmt.has_specials:
        raise ConfigError(
            f"precision.overflow = 'ieee' needs a format with inf or nan, and {fmt.describe()} has neither",
            where="precision.overflow",
            allowed="saturate",
            hint="use precision.overflow=saturate, or a dialect with specials such as E3M4:ieee",
        )


def _check_scaled(fmt: FP8Format, recipe: Recipe) -> None:
    if recipe == "none" and fmt.block.name:
        raise ConfigError(
            f"the scaling 'none' leaves {fmt.name} without the scales that its name asks for",
            where="precision.scaling.recipe",
            allowed="amax, delayed",
            hint="use precision.scaling.recipe=amax, or a format without blocks",
        )


def plan_precision(
    config: PrecisionConfig, format_name: str, kinds: Mapping[str, LayerKind]
) -> PrecisionPlan:
    """The plan for the layers that ``kinds`` names, with ``format_name`` as the format under study.

    Raises:
        ConfigError: a rule's pattern matches no layer, or a finite format was asked to overflow to inf.
    """
    study_format = parse_format("BF16" if config.regime == "bf16" else format_name)
    regime_roles = REGIME_ROLES[config.regime] if config.roles is None else config.roles
    for rule in config.rules:
        if not any(fnmatchcase(name, rule.pattern) for name in kinds):
            close = nearest(rule.pattern, list(kinds))
            raise ConfigError(
                f"the pattern {rule.pattern!r} matches no layer",
                where="precision.rules",
                allowed=", ".join(kinds),
                hint=f"did you mean {close!r}?" if close else None,
            )
    layers = tuple(
        _plan_layer(config, study_format, regime_roles, name, kind) for name, kind in kinds.items()
    )
    for layer in layers:
        for role, fmt in layer.formats:
            if role in OPERAND_ROLES:
                _check_overflow(fmt, config.overflow)
                _check_scaled(fmt, layer.recipe)
    return PrecisionPlan(
        layers=layers,
        frozen_blocks=config.regime == "frozen",
        stochastic=ROUNDED_STOCHASTICALLY[config.rounding],
        hadamard=config.hadamard,
    )


def _plan_layer(
    config: PrecisionConfig, study_format: FP8Format, regime_roles: Sequence[Role], name: str, kind: LayerKind
) -> LayerPrecision:
    recipe = config.scaling.recipe
    unrounded = LayerPrecision(name, (), recipe, kind)
    for rule in config.rules:
        if fnmatchcase(name, rule.pattern):
            if rule.format is not None and rule.format.lower() in FLOAT32_WORDS:
                return unrounded
            fmt = study_format if rule.format is None else parse_format(rule.format)
            roles = (regime_roles or OPERAND_ROLES) if rule.roles is None else rule.roles
            if rule.roles is None and fmt.name == "BF16":
                # "keep this layer in BF16" means field practice: BF16 operands on a float32 master.
                roles = OPERAND_ROLES
            if kind == "embedding":
                roles = OPERAND_ROLES[:1]  # a look-up has no other operand, whatever the regime rounds
            formats = _formats(kind, roles, fmt)
            others = {"activations": rule.activation_format, "gradients": rule.gradient_format}
            formats = tuple((role, parse_format(others.get(role) or own.name)) for role, own in formats)
            scaled = next((own for _, own in formats if own.name != "BF16"), fmt)
            chosen = _recipe(scaled, recipe) if rule.scaling is None else recipe_for(scaled, rule.scaling)
            return replace(unrounded, formats=formats, recipe=chosen)
    if kind == "head":
        if config.regime in ("fp32", "frozen") or config.head_format.lower() in FLOAT32_WORDS:
            return replace(unrounded, recipe="none")
        fmt = parse_format(config.head_format)
        formats = _formats(kind, OPERAND_ROLES, fmt)
        return replace(unrounded, formats=formats, recipe="amax" if fmt.block.name else "none")
    if config.regime == "postln" and kind != "normalised":
        return unrounded
    return replace(
        unrounded,
        formats=_formats(kind, regime_roles, study_format),
        recipe=_recipe(study_format, recipe),
    )


def _recipe(fmt: FP8Format, asked: Recipe) -> Recipe:
    return "none" if fmt.name == "BF16" else recipe_for(fmt, asked)


def recipe_for(fmt: FP8Format, asked: Recipe) -> Recipe:
    """How scales of ``fmt`` come about: blocks take theirs from the tensor, whatever is asked."""
    return "amax" if asked == "delayed" and not fmt.block.whole else asked


def without_rounding(
    plan: PrecisionPlan, *, role: Role | None = None, layer: str | None = None
) -> PrecisionPlan:
    """The plan with one role, one layer, or that role of that layer left in float32."""
    layers = tuple(
        replace(
            entry,
            formats=tuple((r, f) for r, f in entry.formats if role is not None and r != role),
        )
        if layer in (None, entry.name)
        else entry
        for entry in plan.layers
    )
    return replace(plan, layers=layers)
