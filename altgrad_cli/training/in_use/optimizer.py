"""Somebody else's optimizer as an update rule; and made again from what a capture says of it.

It steps in place, on the live parameters, when the loop says so. Asked for a proposal at any other time it
steps aside: on the same parameters and state, which are put back as they were.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.errors import AltgradError, CheckpointError
from altgrad_cli.training.in_use.parameters import LiveParameters
from altgrad_cli.updates.any_torch import sorted_state
from altgrad_cli.updates.rule import ParameterTensors, PlacedOn, Proposal


@dataclass(frozen=True, slots=True)
class OptimizerMemory:
    """A copy of an optimizer's state, and of the numbers in its groups."""

    state: dict[Tensor, dict[str, object]]
    groups: list[dict[str, object]]


@dataclass(slots=True, eq=False)
class LiveOptimizer:
    """An ``UpdateRule`` round the user's own."""

    own: torch.optim.Optimizer
    live: LiveParameters
    nonnegative: tuple[str, ...] = ()
    stochastic: bool = False
    steps: int = 0
    stepped: bool = False
    """The loop's own step has just changed the parameters, and its update is yet to be judged."""
    aside: bool = False
    """A step is being tried that is none of the loop's."""
    before: OptimizerMemory | None = None
    """The memory before the loop's own step."""
    moved: bool = False
    """A step that was rolled back was committed: its weights are yet to be written."""
    _after: tuple[Tensor, OptimizerMemory] | None = field(default=None)

    @property
    def slots(self) -> dict[str, Tensor]:
        """Numbers that it keeps of every weight, flat."""
        return sorted_state(self.live.flat, self._named())[0]

    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``; the learning rates are those of its groups."""
        values = self.live.flat.values
        if self.stepped:
            after = self.live.read(torch.empty_like(values))
            slots: dict[str, Tensor] = {}
        else:
            after, slots = self._step_aside(gradient)
        after[:start].copy_(values[:start])
        return Proposal(after, slots, learning_rate)

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``: what the loop's own step left is kept, its weights as ``stored``."""
        if self._after is not None:
            self.put(self._after[1])
            self.moved = True
        elif not self.stepped:
            raise AltgradError("a step that was tried aside cannot be kept")
        self._after = None
        self.steps += 1

    def state_dict(self) -> ParameterTensors:
        """As ``UpdateRule.state_dict``."""
        slots, further = sorted_state(self.live.flat, self._named())
        return {name: self.live.flat.named(slot) for name, slot in slots.items()} | dict(further)

    def load_state_dict(self, saved: ParameterTensors, steps: int) -> None:
        """As ``UpdateRule.load_state_dict``."""
        own = dict(zip(self.live.flat.names, self.live.own, strict=True))
        self.own.state.clear()
        for slot, tensors in saved.items():
            for name, tensor in tensors.items():
                turned = name in self.live.turned and tensor.shape[::-1] == own[name].shape
                self.own.state[own[name]][slot] = tensor.T.contiguous() if turned else tensor.clone()
        self.steps = steps

    def memory(self) -> OptimizerMemory:
        """What it remembers now."""
        state = {each: {key: _copied(value) for key, value in kept.items()} for each, kept in self._state()}
        groups = [
            {key: _copied(value) for key, value in group.items() if key != "params"}
            for group in self.own.param_groups
        ]
        return OptimizerMemory(state, groups)

    @torch.no_grad()
    def put(self, memory: OptimizerMemory) -> None:
        """Let it remember ``memory`` again: in its own tensors, where it has them."""
        for parameter in [each for each, _ in self._state() if each not in memory.state]:
            del self.own.state[parameter]
        for parameter, kept in memory.state.items():
            mine = self.own.state[parameter]
            for key in [key for key in mine if key not in kept]:
                del mine[key]
            for key, value in kept.items():
                held = mine.get(key)
                if isinstance(held, Tensor) and isinstance(value, Tensor) and held.shape == value.shape:
                    held.copy_(value)
                else:
                    mine[key] = _copied(value)
        for group, options in zip(self.own.param_groups, memory.groups, strict=True):
            for key, value in options.items():
                if isinstance(group.get(key), Tensor) and isinstance(value, Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = _copied(value)

    def roll_back(self) -> None:
        """Parameters and memory are what they were before the loop's own step; ``commit`` brings it back."""
        assert self.before is not None
        self._after = (self.live.read(torch.empty_like(self.live.flat.values)), self.memory())
        self.live.write(self.live.flat.values)
        self.put(self.before)
        self.stepped = False

    def go_on(self) -> None:
        """Undo ``roll_back``: the step happens after all, finite or not."""
        if self._after is not None:
            self.live.write(self._after[0])
            self.put(self._after[1])
            self._after = None

    def forget(self) -> None:
        """What was rolled back stays so."""
        self._after = None

    def _step_aside(self, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        live, memory = self.live, self.memory()
        values = live.flat.values.clone()  # the parameters may be views of it
        kept = [each.grad for each in live.own]
        for each, view in zip(live.own, live._lying(live.flat.views(gradient)), strict=True):
            each.grad = (
                view.clone() if each.grad is not None or not any(g is not None for g in kept) else None
            )
        self.aside = True
        try:
            with torch.enable_grad():
                self.own.step()
            return live.read(torch.empty_like(live.flat.values)), self.slots
        finally:
            self.aside = False
            live.flat.values.copy_(values)
            live.write(values)
            self.put(memory)
            for each, gradient_before in zip(live.own, kept, strict=True):
                each.grad = gradient_before

    def _state(self) -> list[tuple[Tensor, dict[str, Any]]]:
        return [(each, kept) for each, kept in self.own.state.items() if isinstance(each, Tensor)]

    def _named(self) -> dict[str, dict[str, Tensor]]:
        """Its tensors, as (out, in) where the flat buffer has them so: slot -> parameter -> tensor."""
        names = {id(each): name for name, each in zip(self.live.flat.names, self.live.own, strict=True)}
        taken: dict[str, dict[str, Tensor]] = {}
        for parameter, kept in self._state():
            name = names.get(id(parameter))
            for slot, value in kept.items():
                if name is not None and isinstance(value, int | float):
                    value = torch.tensor(float(value))
                if name is not None and isinstance(value, Tensor):
                    whole = name in self.live.turned and value.shape == parameter.shape
                    taken.setdefault(slot, {})[name] = (value.T if whole else value).detach()
        return taken


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value


def groups_of(rule: LiveOptimizer) -> list[dict[str, Any]]:
    """Its groups in plain values: the names of their parameters, and their options."""
    names = {id(each): name for name, each in zip(rule.live.flat.names, rule.live.own, strict=True)}
    return [
        {
            "names": [names[id(each)] for each in group["params"] if id(each) in names],
            "options": {key: _plain(value) for key, value in group.items() if key != "params"},
        }
        for group in rule.own.param_groups
    ]


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def optimizer_again(
    name: str, groups: Sequence[Mapping[str, Any]]
) -> Callable[[LiveParameters], torch.optim.Optimizer]:
    """What makes ``torch.optim.NAME`` again, with the groups that ``groups_of`` wrote down.

    Raises:
        CheckpointError: torch has no such optimizer; code is never loaded because a file names it.
    """
    kind = getattr(torch.optim, name.removeprefix("torch.optim."), None)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise CheckpointError(f"the step cannot be repeated: {name} is no optimizer of torch")
    known = inspect.signature(kind).parameters

    def make(live: LiveParameters) -> torch.optim.Optimizer:
        own = dict(zip(live.flat.names, live.own, strict=True))
        made = []
        for group in groups:
            options = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in group["options"].items()
                if key in known
            }
            made.append({"params": [own[each] for each in group["names"]], **options})
        fitting: torch.optim.Optimizer = kind(
            [group for group in made if group["params"]], **_needed(known, made)
        )
        return fitting

    return make


def _needed(known: Mapping[str, object], groups: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """What some classes ask for outright, though every group has its own."""
    return {key: groups[0][key] for key in ("lr",) if key in known and groups and key in groups[0]}
