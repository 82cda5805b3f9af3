"""What every update rule offers: new parameters proposed beside the old ones, and the commit.

A rule is one object a run. ``propose`` changes nothing, so a proposal that is never committed never happened:
a step can be dropped, measured, traced or tried under another setting without a copy of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.rounding.grid import Grid
from altgrad_cli.updates.flat import FlatParameters

ParameterTensors = Mapping[str, Mapping[str, Tensor]]
"""A rule's memory as a checkpoint keeps it: slot -> name of the parameter -> tensor."""

PlacedOn = Callable[[int], tuple[Grid, Tensor]]
"""Number of a block linear layer -> its weights' grid and scales (``TrainState.placed_on``)."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Where a rule would take the parameters, and the memory that it would have there."""

    parameters: Tensor
    """Flat, float32, unrounded; aligned with ``FlatParameters.values``."""
    slots: dict[str, Tensor]
    """The rule's own state by name, each aligned likewise."""
    learning_rate: float
    further: ParameterTensors = field(default_factory=dict)
    """State that is not a number a parameter."""


class UpdateRule(Protocol):
    """How a gradient becomes an update."""

    nonnegative: tuple[str, ...]
    """Slots that hold no negative number while the rule is sound."""
    stochastic: bool
    """Whether the rule's proposal is rounded stochastically whatever ``precision.rounding`` says."""

    @property
    def slots(self) -> dict[str, Tensor]:
        """The rule's memory: a number a parameter in each, flat and aligned with the parameters."""

    @property
    def steps(self) -> int:
        """Updates that were committed."""

    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """The update that ``gradient`` (flat) leads to; parameters before ``start`` stay as they are.

        All tensors of the proposal are its own: the stored weights may be rounded into them, and role O
        rounds the slots.
        """

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """Take over the slots of ``proposal``; ``stored`` is what the parameters became, on their grids."""

    def state_dict(self) -> ParameterTensors:
        """The memory, for a checkpoint; views, not copies."""

    def load_state_dict(self, saved: ParameterTensors, steps: int) -> None:
        """The inverse, after ``steps`` updates; KeyError or ValueError for what does not fit."""


class ElementwiseRule:
    """A rule that asks for nothing but a weight, its gradient and a number or two kept of it."""

    names: tuple[str, ...]
    """Of the slots."""
    nonnegative: tuple[str, ...] = ()
    stochastic = False

    def __init__(self, optimizer: OptimizerConfig, flat: FlatParameters) -> None:
        self._optimizer, self._flat = optimizer, flat
        self.slots = {name: torch.zeros_like(flat.values) for name in self.names}
        self.steps = 0

    def candidate(
        self,
        parameters: Tensor,
        gradient: Tensor,
        slots: list[Tensor],
        out: list[Tensor],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """Write the parameters and then each slot after the step into ``out``; all 1-D, of one length."""
        raise NotImplementedError

    def gain(self, proposal: Proposal) -> Tensor | float:
        """How far a unit of the first slot moved a weight in ``proposal``, against its sign."""
        raise NotImplementedError

    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``; decay acts on the matrices only."""
        flat = self._flat
        before = [flat.values, *self.slots.values()]
        after = [torch.empty_like(tensor) for tensor in before]
        for new, old in zip(after, before, strict=True):
            new[:start].copy_(old[:start])
        matrices, vectors = slice(start, flat.matrix_end), slice(flat.matrix_end, flat.bounds[-1])
        for part, decay in ((matrices, self._optimizer.weight_decay), (vectors, 0.0)):
            values, *slots = (tensor[part] for tensor in before)
            out = [tensor[part] for tensor in after]
            self.candidate(values, gradient[part], slots, out, learning_rate, decay)
        return Proposal(after[0], dict(zip(self.slots, after[1:], strict=True)), learning_rate)

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``."""
        self.slots = proposal.slots
        self.steps += 1

    def state_dict(self) -> ParameterTensors:
        """As ``UpdateRule.state_dict``."""
        return {name: self._flat.named(slot) for name, slot in self.slots.items()}

    def load_state_dict(self, saved: ParameterTensors, steps: int) -> None:
        """As ``UpdateRule.load_state_dict``."""
        for name, slot in self.slots.items():
            self._flat.fill(slot, saved[name])
        self.steps = steps


class Wrapper:
    """A rule round another one: passes all on to ``optimizer.base``; a subclass overrides what it changes."""

    stochastic = False

    def __init__(self, base: ElementwiseRule, optimizer: OptimizerConfig, flat: FlatParameters) -> None:
        self._base, self._optimizer, self._flat = base, optimizer, flat
        self.nonnegative = base.nonnegative

    @property
    def steps(self) -> int:
        """Updates that were committed."""
        return self._base.steps

    @property
    def slots(self) -> dict[str, Tensor]:
        """The base's memory."""
        return self._base.slots

    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``."""
        return self._base.propose(gradient, learning_rate, placed_on, start)

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``."""
        self._base.commit(proposal, stored)

    def state_dict(self) -> ParameterTensors:
        """As ``UpdateRule.state_dict``."""
        return {name: self._flat.named(slot) for name, slot in self.slots.items()}

    def load_state_dict(self, saved: ParameterTensors, steps: int) -> None:
        """As ``UpdateRule.load_state_dict``."""
        self._base.load_state_dict(saved, steps)
        for name in self.slots.keys() - self._base.slots.keys():
            self._flat.fill(self.slots[name], saved[name])
