"""What every update rule offers: new parameters proposed beside the old ones, and the commit.

A rule is one object a run. ``propose`` changes nothing, so a proposal that is never committed never happened:
a step can be dropped, measured, traced or tried under another setting without a copy of the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Proposal:
    """Where a rule would take the parameters, and the memory that it would have there."""

    parameters: Tensor
    """Flat, float32, unrounded; aligned with ``FlatParameters.values``."""
    slots: dict[str, Tensor]
    """The rule's own state by name, each aligned likewise."""


class UpdateRule(Protocol):
    """How a gradient becomes an update."""

    slots: dict[str, Tensor]
    """The rule's memory: a number a parameter in each, flat and aligned with the parameters."""
    nonnegative: tuple[str, ...]
    """Slots that hold no negative number while the rule is sound."""
    steps: int
    """Updates that were committed."""

    def propose(self, gradient: Tensor, learning_rate: float, start: int = 0) -> Proposal:
        """The update that ``gradient`` (flat) leads to; parameters before ``start`` stay as they are.

        All tensors of the proposal are its own: the stored weights may be rounded into them, and role O
        rounds the slots.
        """

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """Take over the slots of ``proposal``; ``stored`` is what the parameters became, on their grids."""
