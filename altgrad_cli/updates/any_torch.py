"""Any optimizer of torch.optim, by snapshot and roll-back: it steps on copies, and its state is put back.

torch's optimizers overwrite what they are given, so parameters and state are copied in at every step and the
results are copied out. State that has the shape of its parameter becomes a slot, and is traced, checked and
rounded like that of the rules here; the rest (step counts, Adafactor's factors) is saved as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.config.update_rules import TORCH_PREFIX
from altgrad_cli.errors import UsageError, nearest
from altgrad_cli.updates.flat import FlatParameters
from altgrad_cli.updates.rule import ParameterTensors, PlacedOn, Proposal


class TorchOptimizer:
    """``optimizer.rule: torch.optim.NAME``, with betas, eps and weight decay where it knows them.

    Decay acts on the matrices only, and as that optimizer has it; other settings are torch's own.
    """

    nonnegative: tuple[str, ...] = ()
    stochastic = False

    def __init__(self, optimizer: OptimizerConfig, flat: FlatParameters) -> None:
        self._flat = flat
        self._copy = torch.zeros_like(flat.values)
        self._parameters = {name: nn.Parameter(view) for name, view in flat.named(self._copy).items()}
        self._torch = _make(optimizer, flat, self._parameters)
        self.slots: dict[str, Tensor] = {}
        self.steps = 0
        self._further: ParameterTensors = {}

    def propose(
        self, gradient: Tensor, learning_rate: float, placed_on: PlacedOn, start: int = 0
    ) -> Proposal:
        """As ``UpdateRule.propose``."""
        flat = self._flat
        self._copy.copy_(flat.values)
        self._put_state()
        gradients = flat.named(gradient)
        for (name, parameter), begin in zip(self._parameters.items(), flat.bounds, strict=False):
            parameter.grad = gradients[name].clone() if begin >= start else None
        for group in self._torch.param_groups:
            group["lr"] = learning_rate
        with torch.enable_grad():
            self._torch.step()
        slots, further = self._taken_state()
        return Proposal(self._copy.clone(), slots, learning_rate, further)

    def commit(self, proposal: Proposal, stored: Tensor) -> None:
        """As ``UpdateRule.commit``."""
        self.slots, self._further = proposal.slots, proposal.further
        self.steps += 1

    def state_dict(self) -> ParameterTensors:
        """As ``UpdateRule.state_dict``."""
        slots: dict[str, Mapping[str, Tensor]] = {
            name: self._flat.named(slot) for name, slot in self.slots.items()
        }
        return slots | dict(self._further)

    def load_state_dict(self, saved: ParameterTensors, steps: int) -> None:
        """As ``UpdateRule.load_state_dict``."""
        named = {name: dict(tensors) for name, tensors in saved.items()}
        self.slots, self._further = sorted_state(self._flat, named)
        self.steps = steps

    def _put_state(self) -> None:
        """Give torch the committed state, as copies."""
        self._torch.state.clear()
        for slot, tensors in self.state_dict().items():
            for name, tensor in tensors.items():
                self._torch.state[self._parameters[name]][slot] = tensor.clone()

    def _taken_state(self) -> tuple[dict[str, Tensor], ParameterTensors]:
        """What torch holds now."""
        taken: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items():
            for slot, value in self._torch.state[parameter].items():
                if isinstance(value, Tensor):
                    taken.setdefault(slot, {})[name] = value.detach()
                elif value is not None:
                    kind = type(value).__name__
                    raise UsageError(f"{type(self._torch).__name__} keeps a {kind} a parameter, not a tensor")
        return sorted_state(self._flat, taken)


def sorted_state(
    flat: FlatParameters, state: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], ParameterTensors]:
    """The slots, flat, and the rest: state that not every parameter has in its own shape and float32."""
    slots: dict[str, Tensor] = {}
    further: dict[str, dict[str, Tensor]] = {}
    for slot, tensors in state.items():
        aligned = len(tensors) == len(flat.names) and all(
            tensors[name].shape == shape and tensors[name].dtype == torch.float32
            for name, shape in zip(flat.names, flat.shapes, strict=True)
        )
        if aligned:
            slots[slot] = torch.cat([tensors[name].reshape(-1) for name in flat.names])
        else:
            further[slot] = {name: tensor.clone() for name, tensor in tensors.items()}
    return slots, further


def _make(
    optimizer: OptimizerConfig, flat: FlatParameters, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    name = optimizer.rule.removeprefix(TORCH_PREFIX)
    kinds = {
        key: kind
        for key, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
        if kind not in (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
    }
    if name not in kinds:
        close = nearest(name, list(kinds))
        raise UsageError(
            f"torch.optim has no {name} that steps on dense gradients without a closure",
            where="optimizer.rule",
            allowed=", ".join(f"{TORCH_PREFIX}{kind}" for kind in kinds),
            hint=f"did you mean {TORCH_PREFIX}{close}?" if close else None,
        )
    known = inspect.signature(kinds[name]).parameters
    settings: dict[str, Any] = {"lr": 1e-3, "betas": optimizer.betas, "eps": optimizer.eps}
    if name == "Adafactor":
        del settings["eps"]  # its eps is a pair, and another thing
    settings |= {"foreach": False}
    ends = zip(parameters.values(), flat.bounds, strict=False)
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter, begin in ends:
        (matrices if begin < flat.matrix_end else vectors).append(parameter)
    decay = optimizer.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if "weight_decay" not in known:
        groups = [{"params": [*matrices, *vectors]}]
    try:
        return kinds[name](
            [group for group in groups if group["params"]],
            **{key: value for key, value in settings.items() if key in known},
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"torch.optim.{name} cannot be used here: {error}",
            where="optimizer.rule",
            hint="use another optimizer, for example torch.optim.NAdam",
        ) from None
