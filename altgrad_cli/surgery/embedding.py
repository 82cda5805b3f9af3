"""The quantised look-up: an embedding that gives rows of Q(W), where a rule asks for it by name.

There is no product, so W is its only operand: the gradient of a row is what comes back to it, in float32, and
goes to the float32 master as if nothing had been rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.errors import UsageError
from altgrad_cli.surgery.linear import WEIGHTS, PassRounding, PassSlot, QuantizedLayer


class _RoundedTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, layer: int, rounding: PassRounding) -> Tensor:
        return rounding.round(layer, WEIGHTS, weight)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class QuantizedEmbedding(QuantizedLayer):
    """Stands for ``nn.Embedding``: the whole table is rounded, with the scale of all of it, in every call.

    Raises:
        UsageError: ``max_norm`` is set: such a look-up writes into its weight.
    """

    def __init__(self, embedding: nn.Embedding, slot: PassSlot) -> None:
        super().__init__(embedding, slot)
        if embedding.max_norm is not None:
            raise UsageError(
                "an embedding with max_norm writes into its weight when it is called, and cannot be rounded",
                where="precision.rules",
                allowed="an nn.Embedding without max_norm",
                hint="leave it out of the rules",
            )
        self._options = embedding.padding_idx, None, 2.0, embedding.scale_grad_by_freq, embedding.sparse

    def forward(self, x: Tensor) -> Tensor:
        rounding, table = self.slot.rounding, self.weight
        if rounding is not None and not rounding.leaves_alone(self.index):
            table = _RoundedTable.apply(table, self.index, rounding)  # type: ignore[no-untyped-call]
        return F.embedding(x, table, *self._options)
