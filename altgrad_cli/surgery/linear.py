"""The quantised linear layer, and the rounding of a pass: where training tensors are rounded during a step.

    Y  = Q(X) Q(W)^T          forward
    dX = Q(dY) Q(W)           backward
    dW = Q(dY)^T Q(X)

One layer serves every format, BF16 included, on a float32 carrier. What is rounded and by which scale is
decided by the ``OperandRounding`` of the current pass, so that the same network gives the rounded gradient,
the float32 shadow and any counterfactual without being changed.

Each operand stands in two products, which reduce over different dimensions of it. Where the blocks that share
a scale lie along one dimension, it is rounded for each product apart, both times from float32: what hardware
multiplies needs the blocks along the reduced dimension of both operands (OCP Microscaling 1.0, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.precision import OPERAND_ROLES, Overflow, Role, ScalingConfig
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.rounding.grid import Grid, operand_grid
from altgrad_cli.rounding.scratch import workspace
from altgrad_cli.rounding.statistics import STATS, Counters
from altgrad_cli.surgery.hadamard import mixed
from altgrad_cli.surgery.precision_plan import LayerPrecision, PrecisionPlan
from altgrad_cli.surgery.share import Share

WEIGHTS, ACTIVATIONS, GRADIENTS = range(len(OPERAND_ROLES))

Tap = Callable[[int, Role, Tensor], Tensor]
"""(layer index, role, operand before rounding) -> the operand to round; sees or replaces it."""

Observer = Callable[[int, int, Tensor, Grid, Tensor], None]
"""(layer index, operand role, operand before rounding, grid, scales): sees what is about to be rounded."""

Scales = Mapping[tuple[int, int], Tensor]
"""(layer index, operand role) -> the scales of its grid."""


def operand_grids(layer: LayerPrecision, scaling: ScalingConfig) -> list[Grid | None]:
    """The grids of the layer's W, A and G; None where one stays in float32."""
    options = {"power_of_two": scaling.power_of_two, "margin": scaling.margin}
    formats = [layer.format_of(role) for role in OPERAND_ROLES]
    return [None if fmt is None else operand_grid(fmt, layer.recipe, **options) for fmt in formats]


def for_weight_gradient(plan: PrecisionPlan, role: int, x: Tensor) -> Tensor:
    """What stands for ``x`` in its second product: in dW with its tokens mixed, where the plan mixes them."""
    return x if plan.hadamard is None or role == WEIGHTS else mixed(x, plan.hadamard)


class OperandRounding:
    """The rounding of every linear layer's W, A and G in one pass.

    Args:
        plan: the format of each layer and role; an absent one is left in float32.
        scaling: how scales come about.
        scales: those decided before the pass; absent ones are taken from the tensor.
        count: what of ``stats`` to fill, float64 (layers, 3, len(STATS)); NaN where nothing was rounded or
            counted. None fills nothing.
        generator: random stream of stochastic rounding.
        share: the part of the batch that this pass sees; None: all of it.
        tap: sees each operand before it is rounded and may replace it (fault injection, tracing).
        observer: sees each operand with its grid and scales (code census).
        deterministic: round to nearest even where training rounds stochastically, and for the forward product
            alone (evaluation).
    """

    def __init__(
        self,
        plan: PrecisionPlan,
        scaling: ScalingConfig,
        scales: Scales,
        *,
        overflow: Overflow = "saturate",
        count: Counters | None = None,
        generator: torch.Generator | None = None,
        share: Share | None = None,
        device: torch.device | str = "cpu",
        tap: Tap | None = None,
        observer: Observer | None = None,
        deterministic: bool = False,
    ) -> None:
        self._plan = plan
        self._grids = [operand_grids(layer, scaling) for layer in plan.layers]
        self._scales = scales
        self._overflow = overflow
        self._roundings: list[Rounding] = [
            "stochastic" if role in plan.stochastic and not deterministic else "nearest"
            for role in OPERAND_ROLES
        ]
        self._generator = generator
        self._share = share
        self._backward = not deterministic
        self._tap = tap
        self._observer = observer
        self.scales_used: dict[tuple[int, int], Tensor] = {}
        self.rounded_weights: dict[int, Tensor] = {}
        """Q(W) by layer, where the weight operand was rounded."""
        shape = (len(self._grids), len(OPERAND_ROLES), len(STATS))
        self._count: Counters = count or "all"
        self.stats = torch.full(shape, torch.nan, dtype=torch.float64, device=device) if count else None
        self._rows = None if self.stats is None else [layer.unbind(0) for layer in self.stats.unbind(0)]

    def leaves_alone(self, layer: int) -> bool:
        """Whether nothing of layer number ``layer`` is rounded, or looked at, in this pass."""
        return self._tap is None and not any(self._grids[layer])

    def takes_matrices(self, layer: int) -> bool:
        """As ``PassRounding.takes_matrices``."""
        blocks = any(grid is not None and not grid.block.whole for grid in self._grids[layer])
        return blocks or self._plan.hadamard is not None

    def round(self, layer: int, role: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``PassRounding.round``; what is counted, kept and observed is the first of the two."""
        if self._tap is not None:
            x = self._tap(layer, OPERAND_ROLES[role], x)
        grid, second = self._grids[layer][role], x
        if self._backward and any(self._grids[layer][ACTIVATIONS:]):
            second = for_weight_gradient(self._plan, role, x)
        if grid is None:
            return x, second
        share = None if role == WEIGHTS else self._share
        if share is not None and self._backward:
            share.check((grid, grid.turned), self._plan.hadamard, x.shape)
        among = None if share is None else share.largest
        scales = self._scales.get((layer, role))
        if scales is None:
            scales = grid.scales(x, among)
        self.scales_used[layer, role] = scales
        if self._observer is not None:
            self._observer(layer, role, x, grid, scales)
        rounded, turned = grid.round_for_both(
            x,
            scales,
            second if self._backward else None,
            rounding=self._roundings[role],
            overflow=self._overflow if grid.element.has_specials else "saturate",
            generator=self._generator,
            first=0 if share is None else share.first_of(x),
            among=among,
            # Q(dY) is used up before the next one is made: its memory is, and stays in the cache.
            out=workspace(x) if role == GRADIENTS else None,
            stats=None if self._rows is None else self._rows[layer][role],
            counters=self._count,
        )
        if role == WEIGHTS:
            self.rounded_weights[layer] = rounded
        return rounded, turned


class PassRounding(Protocol):
    """What a layer asks of the rounding of a pass."""

    def leaves_alone(self, layer: int) -> bool:
        """Whether nothing of layer number ``layer`` is rounded, or looked at, in this pass."""

    def takes_matrices(self, layer: int) -> bool:
        """Whether it matters which values stand in one row of layer number ``layer``'s operands.

        So it is where blocks of a row share a scale, or rows are mixed.
        """

    def round(self, layer: int, role: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Q(x) for operand ``role`` of layer number ``layer``; x itself where it stays in float32.

        First for the product that reduces over its last dimension, then for the one that reduces over the
        others: one and the same tensor, unless its blocks lie otherwise there.
        """


Noise = Callable[[Tensor], Tensor]
"""x -> uniform numbers in [0, 1) of its shape, for the next dropout layer."""


class PassSlot:
    """Where the layers of one model find the rounding of the pass that is under way, and its noise."""

    rounding: PassRounding | None = None
    noise: Noise | None = None
    """None drops nothing: an evaluation."""

    @contextmanager
    def use(self, rounding: PassRounding, noise: Noise | None = None) -> Iterator[None]:
        """Make these the current ones inside the block."""
        before, (self.rounding, self.noise) = (self.rounding, self.noise), (rounding, noise)
        try:
            yield
        finally:
            self.rounding, self.noise = before


class _RoundedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: int, rounding: PassRounding) -> Tensor:
        w, w_turned = rounding.round(layer, WEIGHTS, weight)
        a, a_turned = rounding.round(layer, ACTIVATIONS, x)
        ctx.save_for_backward(a_turned, w_turned)
        ctx.layer, ctx.rounding = layer, rounding
        return F.linear(a, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        a, w = ctx.saved_tensors
        g, g_turned = ctx.rounding.round(ctx.layer, GRADIENTS, grads[0])
        dx = g @ w if ctx.needs_input_grad[0] else None
        dw = g_turned.flatten(0, -2).T @ a.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None


def rounded_product(x: Tensor, weight: Tensor, layer: int, rounding: PassRounding) -> Tensor:
    """Q(X) Q(W)^T of layer number ``layer``; its gradients are the other two products."""
    product: Tensor = _RoundedProduct.apply(x, weight, layer, rounding)  # type: ignore[no-untyped-call]
    return product


class QuantizedLayer(nn.Module):
    """Stands for ``layer``, whose parameters it takes over; the pass rounds the operands of its product."""

    def __init__(self, layer: nn.Module, slot: PassSlot) -> None:
        super().__init__()
        self.weight: nn.Parameter
        self.bias: nn.Parameter | None
        self.weight, self.bias = layer.weight, getattr(layer, "bias", None)  # type: ignore[assignment]
        self.slot = slot
        self.index = -1  # set by number_layers, once the network is complete


class QuantizedLinear(QuantizedLayer):
    """Stands for a linear layer."""

    def __init__(self, linear: nn.Linear, slot: PassSlot) -> None:
        super().__init__(linear, slot)
        self.out_features, self.in_features = linear.weight.shape  # models ask for them

    def forward(self, x: Tensor) -> Tensor:
        rounding = self.slot.rounding
        if rounding is None or rounding.leaves_alone(self.index):
            return F.linear(x, self.weight, self.bias)  # torch's own: the same bits, at less expense
        product = rounded_product(x, self.weight, self.index, rounding)
        return product if self.bias is None else product + self.bias
