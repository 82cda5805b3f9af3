"""Rounding layers put into any model in place of its own; its parameters stay where they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from altgrad_cli.errors import UsageError
from altgrad_cli.surgery.convolution import CONVOLUTIONS, QuantizedConvolution
from altgrad_cli.surgery.linear import PassSlot, QuantizedLayer, QuantizedLinear
from altgrad_cli.surgery.precision_plan import UNSTORED, LayerKind


class PassDropout(nn.Module):
    """Stands for ``dropout``; the pass brings the noise, so that no other random stream moves."""

    def __init__(self, dropout: nn.Dropout, slot: PassSlot) -> None:
        super().__init__()
        self.p, self.slot = dropout.p, slot

    def forward(self, x: Tensor) -> Tensor:
        noise = self.slot.noise
        if noise is None or not self.p:
            return x
        return x * 0 if self.p == 1 else x * (noise(x) >= self.p) / (1 - self.p)


_Layer = TypeVar("_Layer", bound=nn.Module)


def swap_layers(model: nn.Module, kind: type[_Layer], make: Callable[[_Layer], nn.Module]) -> None:
    """Replace every layer of ``kind`` by what ``make`` gives.

    A layer of a subclass stays. Parameter objects that ``make`` keeps stay those of the model: optimizers,
    tied weights and state dicts do not notice. A layer that stands in the model twice is replaced by one in
    both places.

    Raises:
        UsageError: the model itself is such a layer, and nothing could hold another in its place.
    """
    if type(model) is kind:
        raise UsageError(f"the model is a single {kind.__name__}", hint="put it into an nn.Sequential")
    places = [
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if type(module) is kind
    ]
    made: dict[_Layer, nn.Module] = {}
    for name, layer in places:
        parent, _, attribute = name.rpartition(".")
        if layer not in made:
            made[layer] = make(layer)
        setattr(model.get_submodule(parent), attribute, made[layer])


def _swap_transformers_layers(model: nn.Module, slot: PassSlot) -> None:
    """The same for the ``Conv1D`` of Transformers, a linear layer that keeps its weight as (in, out).

    Its weight is turned into that of a linear layer, (out, in), so that rows are outputs as everywhere. Such
    a layer has a weight of its own: no other kind of layer could share one that lies so.
    """
    kind = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    if kind is None:
        return
    turned: dict[nn.Parameter, nn.Parameter] = {}

    def make(layer: Any) -> QuantizedLinear:
        if layer.weight not in turned:
            turned[layer.weight] = nn.Parameter(layer.weight.detach().T.contiguous())
        inputs, outputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, bias=False, device="meta")
        linear.weight, linear.bias = turned[layer.weight], layer.bias
        return QuantizedLinear(linear, slot)

    swap_layers(model, kind, make)
    shared = [name for name, parameter in model.named_parameters() if parameter in turned]
    if shared:
        raise UsageError(
            f"a Conv1D shares its weight {shared[0]} with a layer of another kind",
            hint="give one of them a weight of its own",
        )


def prepare_layers(
    model: nn.Module, slot: PassSlot, kind: Callable[[str], LayerKind] = lambda name: "hidden"
) -> list[tuple[str, QuantizedLayer]]:
    """Let layers that can round, and dropout, of ``model`` ask ``slot``; the first as ``number_layers`` does.

    These are ``nn.Linear``, the ``Conv1D`` of Transformers, ``nn.Conv1d`` and ``nn.Conv2d``.
    """
    swap_layers(model, nn.Linear, lambda linear: QuantizedLinear(linear, slot))
    _swap_transformers_layers(model, slot)
    for kind_of_layer in CONVOLUTIONS:
        swap_layers(model, kind_of_layer, lambda conv: QuantizedConvolution(conv, slot))
    swap_layers(model, nn.Dropout, lambda dropout: PassDropout(dropout, slot))
    return number_layers(model, kind)


def number_layers(
    model: nn.Module, kind: Callable[[str], LayerKind] = lambda name: "hidden"
) -> list[tuple[str, QuantizedLayer]]:
    """Give every quantised layer its index and return (name, layer): as the model lists them, heads last."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLayer)]
    return number_named(layers, kind)


def number_named(
    layers: list[tuple[str, QuantizedLayer]], kind: Callable[[str], LayerKind]
) -> list[tuple[str, QuantizedLayer]]:
    """Give each of ``layers`` its index; as given, but for those without stored weights, which come last."""
    last: dict[LayerKind, int] = {kind: place for place, kind in enumerate(UNSTORED, start=1)}
    layers = sorted(layers, key=lambda named: last.get(kind(named[0]), 0))
    for index, (_, module) in enumerate(layers):
        module.index = index
    return layers
