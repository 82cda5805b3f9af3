"""The model's calls of one step, recorded, so that the step can be taken again without its loop.

What a loop does between the model's output and ``backward`` is not seen, and need not be: the gradient that
came back to the output is. A call and that gradient give the same backward pass, bit for bit. The loss in
between is then linear: what another rounding would have made of it is exact for a loss that the model
computes itself, and a first-order answer for one that the loop computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.errors import AltgradError
from altgrad_cli.subjects.subject import Batch, LossFunction


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCall:
    """One call of the model, and the gradient that came back to what it gave."""

    args: Sequence[object]
    kwargs: Mapping[str, object]
    stream: Tensor
    """The state of torch's default random stream before it."""
    gradients: Sequence[Tensor | None]
    """Of each floating-point tensor of the output, in order; None where none came."""

    def roots(self, output: object) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors of ``output`` that backward began at, and their gradients.

        Where the model computes its own loss that is it: the gradient of the rest came through it.
        """
        pairs = [
            (tensor, gradient)
            for tensor, gradient in zip(output_tensors(output), self.gradients, strict=True)
            if gradient is not None
        ]
        pairs = [pair for pair in pairs if pair[0].dim() == 0] or pairs
        return [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCalls(Batch):
    """What a step's batch is where only the calls are known; ``x`` is the first tensor given, ``y`` empty."""

    calls: tuple[RecordedCall, ...] = ()
    turned: frozenset[str] = frozenset()
    """Parameters that lie transposed in the flat buffer."""

    def loss(
        self, model: nn.Module, loss: LossFunction, device: torch.device, *, reduction: str = "mean"
    ) -> Tensor:
        """The linear loss."""
        if reduction != "mean":
            raise AltgradError("the step's calls were recorded, and not its targets: no loss of each sample")
        values = []
        for call in self.calls:
            tensors, gradients = self._again(model, call, device)
            values += [(tensor * gradient).sum() for tensor, gradient in zip(tensors, gradients, strict=True)]
        return torch.stack(values).sum()

    def gradients(
        self,
        model: nn.Module,
        loss: LossFunction,
        device: torch.device,
        parameters: Sequence[Tensor],
        *,
        shares: int = 1,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """As ``Batch.gradients``, call by call, as they are added up in a parameter's ``.grad``."""
        total: list[Tensor | None] = [None] * len(parameters)
        value = torch.zeros((), device=device)
        for call in self.calls:
            tensors, given = self._again(model, call, device)
            found = torch.autograd.grad(tensors, parameters, given, allow_unused=True)
            for number, gradient in enumerate(found):
                before = total[number]
                if gradient is not None:
                    total[number] = gradient if before is None else before + gradient
            for tensor, gradient in zip(tensors, given, strict=True):
                value = value + (tensor.detach() * gradient).sum()
        return value, in_flat_order(model, parameters, total, self.turned)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that every call was given; what came back is seen where it goes in, after that."""
        for number, call in enumerate(self.calls):
            for place, tensor in enumerate(tensors_in([call.args, call.kwargs])):
                yield f"call {number} input {place}", tensor

    def _again(
        self, model: nn.Module, call: RecordedCall, device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        with drawing_from(call.stream):
            output = model(*moved(list(call.args), device), **moved(dict(call.kwargs), device))
        tensors, gradients = call.roots(output)
        if not tensors:
            raise AltgradError("no gradient came back to what the model gave in this step")
        return tensors, [gradient.to(device) for gradient in gradients]


@dataclass(frozen=True, slots=True, eq=False)
class ClosureCalls(Batch):
    """A step that the user's own closure takes again: forward, true loss and backward."""

    closure: Callable[[], object] = lambda: None
    stream: Tensor | None = None
    turned: frozenset[str] = frozenset()

    def gradients(
        self,
        model: nn.Module,
        loss: LossFunction,
        device: torch.device,
        parameters: Sequence[Tensor],
        *,
        shares: int = 1,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """As ``Batch.gradients``; every ``.grad`` is what it was afterwards."""
        kept = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            assert self.stream is not None
            with drawing_from(self.stream), torch.enable_grad():
                value = self.closure()
            found = [parameter.grad for parameter in parameters]
        finally:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient
        known = value.detach() if isinstance(value, Tensor) else torch.tensor(float("nan"), device=device)
        return known, in_flat_order(model, parameters, found, self.turned)


def in_flat_order(
    model: nn.Module,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    turned: frozenset[str],
) -> list[Tensor]:
    """The gradients as the flat buffer has them: zeros where none came, a turned weight's transposed."""
    lying = {id(parameter) for name, parameter in model.named_parameters() if name in turned}
    found = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return [
        gradient.T if id(parameter) in lying else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


@contextmanager
def drawing_from(stream: Tensor) -> Iterator[None]:
    """Inside the block torch's default stream goes on from ``stream``; afterwards it is where it was."""
    with torch.random.fork_rng():
        torch.set_rng_state(stream.cpu())
        yield


def tensors_in(nest: object) -> Iterator[Tensor]:
    """The tensors of a nest of mappings and sequences, in order."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for part in nest.values():
            yield from tensors_in(part)
    elif isinstance(nest, tuple | list):
        for part in nest:
            yield from tensors_in(part)


def output_tensors(output: object) -> list[Tensor]:
    """Those of them that can have a gradient."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def moved(nest: Any, device: torch.device) -> Any:
    """``nest`` with every tensor on ``device``."""
    if isinstance(nest, Tensor):
        return nest.to(device)
    if isinstance(nest, Mapping):
        return {key: moved(part, device) for key, part in nest.items()}
    if type(nest) in (list, tuple):
        return type(nest)(moved(part, device) for part in nest)
    return nest
