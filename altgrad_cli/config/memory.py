"""Bits that a configuration keeps of each weight of the blocks' linear layers, from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass

from altgrad_cli.config.limits import FLOAT32_WORDS
from altgrad_cli.config.precision import REGIME_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.config.update_rules import RULES
from altgrad_cli.formats import parse_format


@dataclass(frozen=True, slots=True)
class BitsAWeight:
    """Of a weight that no rule of the precision excepts; scales are counted of blocks of a size."""

    weight: float
    """The stored weight: a float32 master, or the format's own bits."""
    residual: float
    moments: float

    @property
    def total(self) -> float:
        """All that is kept."""
        return self.weight + self.residual + self.moments


def bits_a_weight(config: TrainConfig) -> BitsAWeight | None:
    """What ``config`` keeps of a weight; None for an optimizer of torch's, whose state is its own affair.

    E7M0 weights with AdamW: 8 + 64; with a residual in BF16: 8 + 16 + 64; float32 with SGD: 32 + 32.
    """
    precision, optimizer = config.precision, config.optimizer
    if optimizer.rule not in RULES:
        return None
    roles = REGIME_ROLES[precision.regime] if precision.roles is None else precision.roles
    width = _bits(config.fp8_format)
    slots = RULES[optimizer.rule].slots
    slots = RULES[optimizer.base].slots if slots is None else slots
    assert slots is not None
    residual: float = 0
    if optimizer.rule == "compensated":
        unrounded = optimizer.residual.lower() in FLOAT32_WORDS
        residual = 32 if unrounded else _bits(optimizer.residual)
    return BitsAWeight(
        weight=width if "stored_weights" in roles else 32,
        residual=residual,
        moments=slots * (width if "optimizer_state" in roles else 32),
    )


def _bits(name: str) -> float:
    format = parse_format(name)
    return format.width + format.block.scale_bits_a_value
