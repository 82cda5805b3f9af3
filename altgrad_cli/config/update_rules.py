"""The update rules by name, and what is known of each before anything is built: memory and rate.

No torch here: a sweep is planned and a table of bits a weight is written from this alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from altgrad_cli.errors import ConfigError, nearest

BaseRule = Literal["adamw", "sgd", "lion"]
TORCH_PREFIX = "torch.optim."


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """One update rule."""

    default_rate: float
    """The learning rate that a comparison starts from where none is given."""
    slots: int | None
    """Numbers that it keeps of each weight; None: those of its base."""
    gives_back: bool = False
    """It does nothing but give back what rounding took: where nothing is rounded it is its base."""


RULES: Mapping[str, RuleFacts] = MappingProxyType(
    {
        "adamw": RuleFacts(6e-4, 2),
        "sgd": RuleFacts(0.1, 1),
        "lion": RuleFacts(2e-4, 1),
        "compensated": RuleFacts(6e-4, None, gives_back=True),
        "eco": RuleFacts(6e-4, None, gives_back=True),
        "stiff_gradient": RuleFacts(6e-4, None),
        "code_step": RuleFacts(6e-4, 2),
        "madam": RuleFacts(6e-4, 1),
    }
)
"""What each does, and who published it, stands in its file in ``updates``."""


def default_rate(rule: str) -> float:
    """The learning rate that a comparison of ``rule`` starts from; that of AdamW for torch's own."""
    return RULES[rule if rule in RULES else "adamw"].default_rate


def check_rule(name: str, where: str = "optimizer.rule") -> None:
    """Raises ConfigError for what is no rule's name; whether torch has it is seen when it is made."""
    if name in RULES or (name.startswith(TORCH_PREFIX) and name.removeprefix(TORCH_PREFIX).isidentifier()):
        return
    close = nearest(name, RULES)
    raise ConfigError(
        f"{name!r} is no update rule",
        where=where,
        allowed=f"{', '.join(RULES)}, {TORCH_PREFIX}NAME",
        hint=f"did you mean {close}?" if close else None,
    )
