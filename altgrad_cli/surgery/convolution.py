"""The quantised convolution: W, A and G are rounded as those of a linear layer.

    Y  = conv(Q(X), Q(W))                      forward
    dX = conv^T(Q(dY), Q(W)),  dW = Q(dY) * Q(X)    backward

With one scale a tensor it is torch's own convolution of rounded operands. Where it matters which values stand
in one row (blocks that share a scale, a Hadamard matrix), the convolution is done as the product of matrices
that it is: the patches of X, (batch, places, in_channels * kernel), by W as (out_channels, in_channels *
kernel). The blocks then lie along what each product reduces over, and values that lie in several patches are
rounded, and counted, in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.errors import ConfigError
from altgrad_cli.surgery.linear import (
    ACTIVATIONS,
    GRADIENTS,
    WEIGHTS,
    PassRounding,
    PassSlot,
    QuantizedLayer,
    rounded_product,
)
from altgrad_cli.surgery.precision_plan import PrecisionPlan

CONVOLUTIONS: tuple[type[nn.Conv1d | nn.Conv2d], ...] = (nn.Conv1d, nn.Conv2d)


class _RoundedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, layer: int, rounding: PassRounding, shape: tuple[Any, ...]
    ) -> Tensor:
        w, _ = rounding.round(layer, WEIGHTS, weight)
        a, _ = rounding.round(layer, ACTIVATIONS, x)
        ctx.save_for_backward(a, w)
        ctx.layer, ctx.rounding, ctx.shape = layer, rounding, shape
        return torch.convolution(a, w, None, *shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        a, w = ctx.saved_tensors
        g, _ = ctx.rounding.round(ctx.layer, GRADIENTS, grads[0])
        wanted = [*ctx.needs_input_grad[:2], False]
        dx, dw, _ = torch.ops.aten.convolution_backward(g, a, w, None, *ctx.shape, wanted)
        return dx, dw, None, None, None


class QuantizedConvolution(QuantizedLayer):
    """Stands for ``nn.Conv1d`` or ``nn.Conv2d``, with all that they can be told.

    Padding that is no zeros is copied round the input before it is rounded, so that copies count as values.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, slot: PassSlot) -> None:
        super().__init__(conv, slot)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels  # models ask for them
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding, self.padding_mode, self.groups = conv.padding, conv.padding_mode, conv.groups
        self._plain = F.conv1d if isinstance(conv, nn.Conv1d) else F.conv2d
        self._around: list[int] = conv._reversed_padding_repeated_twice
        before, after = self._around[::2][::-1], self._around[1::2][::-1]
        own = conv.padding_mode == "zeros"
        self._uneven = own and before != after
        self._zeros = before if own and before == after else [0] * len(before)

    def forward(self, x: Tensor) -> Tensor:
        rounding = self.slot.rounding
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._around, mode=self.padding_mode), 0
        if rounding is None or rounding.leaves_alone(self.index):
            return self._plain(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        if self._uneven:
            x = F.pad(x, self._around)
        single = x.dim() == self.weight.dim() - 1
        batch = x.unsqueeze(0) if single else x
        multiply = self._by_patches if rounding.takes_matrices(self.index) else self._by_scales
        product = multiply(batch, rounding)
        if self.bias is not None:
            product = product + self.bias.view(-1, *[1] * len(self._zeros))
        return product.squeeze(0) if single else product

    def _by_scales(self, x: Tensor, rounding: PassRounding) -> Tensor:
        shape = (self.stride, self._zeros, self.dilation, False, [0] * len(self._zeros), self.groups)
        product: Tensor = _RoundedConvolution.apply(x, self.weight, self.index, rounding, shape)  # type: ignore[no-untyped-call]
        return product

    def _by_patches(self, x: Tensor, rounding: PassRounding) -> Tensor:
        """The product of matrices that a convolution of one group is."""
        shape = (self.kernel_size, self.dilation, tuple(self._zeros), self.stride)
        if len(self._zeros) == 1:  # torch takes patches of pictures: a line is one of height 1
            kernel, dilation, zeros, stride = shape
            patches = F.unfold(x.unsqueeze(2), (1, *kernel), (1, *dilation), (0, *zeros), (1, *stride))
        else:
            patches = F.unfold(x, *shape)
        product = rounded_product(patches.mT, self.weight.flatten(1), self.index, rounding)
        places = [
            (size + 2 * around - apart * (reach - 1) - 1) // step + 1
            for size, reach, apart, around, step in zip(x.shape[2:], *shape, strict=True)
        ]
        return product.mT.reshape(len(x), -1, *places)


def check_convolutions(plan: PrecisionPlan, layers: Sequence[tuple[str, QuantizedLayer]]) -> None:
    """See that every convolution can be rounded as ``plan`` says.

    Raises:
        ConfigError: blocks or a Hadamard matrix for one of several groups, or weights stored in blocks.
    """
    for precision, (name, layer) in zip(plan.layers, layers, strict=True):
        if not isinstance(layer, QuantizedConvolution):
            continue
        blocks = {role: not fmt.block.whole for role, fmt in precision.formats}
        if blocks.get("stored_weights"):
            raise ConfigError(
                f"the weights of the convolution {name} cannot be stored in blocks",
                where="precision",
                allowed="one scale a tensor for them; their operands in blocks with a float32 master",
                hint="precision.regime=standard, or a rule of its own for the layer",
            )
        mixed = plan.hadamard is not None and any(role != "weights" for role in blocks)
        if layer.groups > 1 and (mixed or any(blocks.values())):
            what = "a Hadamard matrix" if mixed else "blocks that share a scale"
            raise ConfigError(
                f"the convolution {name} has {layer.groups} groups, and {what} would lie across them",
                where="precision",
                allowed="one scale a tensor, and no Hadamard matrix, for convolutions of several groups",
                hint=f"a rule for it: precision.rules=[{{pattern: {name}, format: BF16}}]"
                if not mixed
                else "precision.hadamard=null",
            )
