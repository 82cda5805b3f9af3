"""What a user may say about precision: the roles, the regimes, and the settings that name them.

A layer has three roles where a linear layer rounds its operands (W, A, G) and one where the optimizer's
result is stored (M). A regime says which roles take part; rules, in order, make exceptions for layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from altgrad_cli.config.limits import check_format, check_whole_numbers
from altgrad_cli.errors import ConfigError

Role = Literal["weights", "activations", "gradients", "stored_weights", "optimizer_state"]
Regime = Literal["fp32", "bf16", "standard", "uniform", "frozen", "postln"]
Recipe = Literal["none", "amax", "delayed"]
RoundingMode = Literal["nearest", "stochastic", "stochastic_gradients", "stochastic_all"]
Overflow = Literal["saturate", "ieee"]

ROLES: tuple[Role, ...] = ("weights", "activations", "gradients", "stored_weights", "optimizer_state")
OPERAND_ROLES: tuple[Role, ...] = ROLES[:3]
"""The roles a linear layer rounds itself; the other two are rounded after the update."""
ROLE_LETTERS: dict[Role, str] = dict(zip(ROLES, "WAGMO", strict=True))

ROUNDED_STOCHASTICALLY: dict[RoundingMode, tuple[Role, ...]] = {
    "nearest": (),
    "stochastic": ("stored_weights",),
    "stochastic_gradients": ("gradients",),
    "stochastic_all": ROLES,
}
"""The roles that a mode rounds stochastically; of NVFP4 recipes the gradients alone (arXiv 2509.25149)."""

HADAMARD_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)

REGIME_ROLES: dict[Regime, tuple[Role, ...]] = {
    "fp32": (),
    "frozen": (),
    "bf16": OPERAND_ROLES,
    "standard": OPERAND_ROLES,
    "uniform": ROLES[:4],
    "postln": ("activations",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """How the scale s of Q(x) = s * round(x / s) is chosen for W, A and G."""

    recipe: Recipe = "delayed"
    """``none``: s = 1; ``amax``: from this tensor; ``delayed``: from the last ``history`` steps."""
    power_of_two: bool = True
    """Round s up to a power of two, so that x / s is exact."""
    margin: float = 1.0
    """A power of two by which s is widened (below 1: narrowed)."""
    history: int = 16

    def __post_init__(self) -> None:
        mantissa = self.margin.hex().split("p")[0] if self.margin > 0 else ""
        if mantissa != "0x1.0000000000000":
            raise ConfigError(
                f"precision.scaling.margin = {self.margin} is not a power of two",
                where="precision.scaling.margin",
                allowed="0.25, 0.5, 1, 2, 4, ...",
            )
        check_whole_numbers(self, "precision.scaling.", {"history": (1, 100_000)})


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """An exception for the layers that match ``pattern`` (a glob over layer names); the first match wins."""

    pattern: str
    format: str | None = None
    """A format, or ``fp32`` to leave the layer unrounded; None: the format under study."""
    roles: tuple[Role, ...] | None = None
    """The roles that are rounded there; None keeps the regime's, or W, A, G where the regime has none."""
    scaling: Recipe | None = None
    activation_format: str | None = None
    """Another format for A there, as E4M3@128:float32 beside W in E4M3@128x128:float32; None: the same."""
    gradient_format: str | None = None
    """Another format for G there, as E5M2 beside E4M3; None: the same."""

    def __post_init__(self) -> None:
        if self.format is not None:
            check_format(self.format, "format", unrounded=True)
        for key in ("activation_format", "gradient_format"):
            name = getattr(self, key)
            if name is not None:
                check_format(name, key)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionConfig:
    """What is rounded, how, and with which exceptions."""

    regime: Regime = "uniform"
    roles: tuple[Role, ...] | None = None
    """Replaces the regime's roles (for attribution); None keeps them."""
    rounding: RoundingMode = "nearest"
    overflow: Overflow = "saturate"
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    head_format: str = "BF16"
    """Grid of the tied LM head's W, A, G; ``fp32`` leaves it unrounded."""
    hadamard: int | None = None
    """Mix so many tokens of both operands of the weight gradient by a random Hadamard matrix before they are
    rounded; a power of two, 16 in NVFP4 training. None mixes none."""
    rules: tuple[LayerRule, ...] = ()

    def rules_format(self, studied: str) -> str:
        """The format of the first rule, where ``studied`` is the one under study."""
        return self.rules[0].format or ("BF16" if self.regime == "bf16" else studied)

    def for_another_format(self) -> PrecisionConfig:
        """This for another format under study than the one it was written for.

        What rules without a format of their own say of A and G belongs to that one, and is left out.
        """
        rules = []
        for rule in self.rules:
            if rule.format is None and (rule.roles, rule.scaling) == (None, None):
                continue
            own = rule.format is None
            rules.append(replace(rule, activation_format=None, gradient_format=None) if own else rule)
        return self if tuple(rules) == self.rules else replace(self, rules=tuple(rules))

    def __post_init__(self) -> None:
        if self.hadamard is not None and self.hadamard not in HADAMARD_SIZES:
            raise ConfigError(
                f"precision.hadamard = {self.hadamard} is no size of a Hadamard matrix here",
                where="precision.hadamard",
                allowed=f"null or a power of two: {', '.join(map(str, HADAMARD_SIZES))}",
            )
        check_format(self.head_format, "precision.head_format", unrounded=True)
