"""A model's own layers made to round, where they stand: modules and parameters stay, and can go back.

``prepare_layers`` puts other modules into a network that altgrad has built. A network that somebody else is
training keeps its modules, with their hooks and their place in optimizers and state dicts: only what their
``forward`` does is replaced, on the instance, until ``restore``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.surgery.convolution import CONVOLUTIONS, QuantizedConvolution
from altgrad_cli.surgery.embedding import QuantizedEmbedding
from altgrad_cli.surgery.linear import PassSlot, QuantizedLayer, QuantizedLinear, rounded_product
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.surgery.swapping import number_named


@dataclass(frozen=True, slots=True, eq=False)
class PlacedLayer:
    """One of a model's layers, and what computes for it."""

    own: Any
    stand_in: QuantizedLayer
    """Of a Conv1D only its number is used."""
    turned: bool
    """A ``Conv1D`` of Transformers: its weight lies as (in, out), and is rounded as (out, in)."""

    @property
    def index(self) -> int:
        """The layer's number."""
        return self.stand_in.index

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own, or its product of rounded operands: in float32, handed on as autocast would."""
        rounding, index = self.stand_in.slot.rounding, self.stand_in.index
        if rounding is None or rounding.leaves_alone(index):
            plain: Tensor = type(self.own).forward(self.own, x)
            return plain
        if isinstance(self.stand_in, QuantizedEmbedding):  # which autocast leaves alone
            looked_up: Tensor = self.stand_in(x)
            return looked_up
        device = x.device.type
        product: Tensor
        with torch.autocast(device, enabled=False):
            if self.turned:
                weight = self.own.weight.T.contiguous()
                product = rounded_product(x.float(), weight, index, rounding) + self.own.bias
            else:
                product = self.stand_in(x.float())
        own: Tensor = (
            product.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else product
        )
        return own

    def shown(self, weight: Tensor) -> QuantizedLayer:
        """A layer of the same kind and number, for whoever asks for its weight: ``weight``, (out, ...)."""
        stand_in = _stand_in(self.own, self.stand_in.slot, turned=self.turned)
        stand_in.weight = nn.Parameter(weight, requires_grad=False)
        stand_in.index = self.index
        return stand_in


def _stand_in(layer: Any, slot: PassSlot, *, turned: bool) -> QuantizedLayer:
    if turned:
        inputs, outputs = layer.weight.shape
        return QuantizedLinear(nn.Linear(inputs, outputs, bias=False, device="meta"), slot)
    if type(layer) is nn.Embedding:
        return QuantizedEmbedding(layer, slot)
    return QuantizedLinear(layer, slot) if type(layer) is nn.Linear else QuantizedConvolution(layer, slot)


def place_layers(
    model: nn.Module, slot: PassSlot, kind: Callable[[str], LayerKind], asked: Collection[str] = ()
) -> list[tuple[str, PlacedLayer]]:
    """Let the layers of ``model`` that can round ask ``slot``; named, in the order of ``number_layers``.

    These are those of ``prepare_layers``, and each ``nn.Embedding`` whose name is ``asked`` for. A layer of a
    subclass, or one whose ``forward`` somebody has replaced already, stays as it is.
    """
    turned = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    found = [
        (
            name,
            PlacedLayer(
                module, _stand_in(module, slot, turned=type(module) is turned), type(module) is turned
            ),
        )
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, *CONVOLUTIONS, turned, *([nn.Embedding] if name in asked else []))
        and "forward" not in module.__dict__
    ]
    ordered = dict(number_named([(name, layer.stand_in) for name, layer in found], kind))
    placed = sorted(found, key=lambda named: ordered[named[0]].index)
    for _, layer in placed:
        # A compiled model that holds the layer leaves its graph here: what rounds is not to be traced.
        layer.own.forward = torch.compiler.disable(layer.forward)  # type: ignore[no-untyped-call]
    return placed


def restore_layers(placed: list[tuple[str, PlacedLayer]]) -> None:
    """Every layer computes as its class does again."""
    for _, layer in placed:
        layer.own.__dict__.pop("forward", None)
