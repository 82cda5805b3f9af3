"""The parameters of a model that somebody else trains, beside a flat copy of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from altgrad_cli.updates.flat import FlatParameters


@dataclass(frozen=True, slots=True)
class LiveParameters:
    """The trained parameters, and the flat copy that holds what they were before a step's update."""

    flat: FlatParameters
    own: tuple[nn.Parameter, ...]
    """In the order of ``flat``."""
    turned: frozenset[str]
    """Those that lie as (in, out), and in the copy as (out, in)."""

    def _lying(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        names = self.flat.names
        return [
            tensor.T if name in self.turned else tensor for name, tensor in zip(names, tensors, strict=True)
        ]

    @torch.no_grad()
    def read(self, out: Tensor) -> Tensor:
        """What they are now, into ``out`` (flat)."""
        torch._foreach_copy_(self.flat.views(out), self._lying([each.detach() for each in self.own]))
        return out

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        """Give them ``values`` (flat)."""
        torch._foreach_copy_(self._lying([each.detach() for each in self.own]), self.flat.views(values))

    def alias(self) -> None:
        """Let them be views of the copy: whoever changes it changes them."""
        for each, view in zip(self.own, self._lying(self.flat.views(self.flat.values)), strict=True):
            each.data = view

    @torch.no_grad()
    def read_gradient(self, out: Tensor) -> Tensor:
        """Their ``.grad`` into ``out`` (flat); 0 where there is none."""
        views = self.flat.views(out)
        present = [number for number, each in enumerate(self.own) if each.grad is not None]
        if len(present) < len(self.own):
            out.zero_()
        gradients = self._lying([each if each.grad is None else each.grad for each in self.own])
        torch._foreach_copy_([views[n] for n in present], [gradients[n] for n in present])
        return out

    @torch.no_grad()
    def write_gradient(self, gradient: Tensor) -> None:
        """The inverse, for those that have one."""
        present = [each.grad is not None for each in self.own]
        own = self._lying([each if each.grad is None else each.grad for each in self.own])
        for has, target, view in zip(present, own, self.flat.views(gradient), strict=True):
            if has:
                target.copy_(view)


def live_parameters(
    model: nn.Module, hidden: Sequence[str], others: Sequence[str], turned: frozenset[str]
) -> LiveParameters:
    """Those of ``model`` that are trained, beside a copy.

    Args:
        hidden: layers whose weights may be stored on a grid.
        others: further layers that are measured one by one.
        turned: names of the parameters that lie as (in, out).
    """
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    named = {id(each): name for name, each in trained.items()}

    def weights(layers: Sequence[str]) -> list[str]:
        return [named[id(model.get_submodule(layer).weight)] for layer in layers]

    linear, further = weights(hidden), list(dict.fromkeys(weights(others)))
    rest = [name for name in trained if name not in {*linear, *further}]
    matrices = [*further, *(name for name in rest if trained[name].dim() >= 2)]
    vectors = [name for name in rest if trained[name].dim() < 2]
    order = [*linear, *matrices, *vectors]
    bounds = [0]
    for name in order:
        bounds.append(bounds[-1] + trained[name].numel())
    device = next(iter(trained.values())).device
    values = torch.zeros(bounds[-1], device=device)
    flat = FlatParameters(
        values=values,
        gradient=torch.zeros_like(values),
        names=tuple(order),
        shapes=tuple(tuple(trained[n].T.shape if n in turned else trained[n].shape) for n in order),
        bounds=tuple(bounds),
        linear_count=len(linear),
        matrix_end=bounds[len(linear) + len(matrices)],
        model_order=tuple(map(order.index, trained)),
    )
    live = LiveParameters(flat, tuple(trained[name] for name in order), turned)
    live.read(values)
    return live
