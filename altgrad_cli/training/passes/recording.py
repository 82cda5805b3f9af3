"""One eager pass written down, autograd and all, and compiled: the graph, and what its outputs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from altgrad_cli.config.precision import OPERAND_ROLES, Overflow
from altgrad_cli.rounding.traced import Slot, TracedRounding, line_count
from altgrad_cli.subjects.subject import LossFunction
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.surgery.swapping import prepare_layers
from altgrad_cli.training.state import hidden_layers
from altgrad_cli.updates.flat import FlatParameters, flatten


class Layout(NamedTuple):
    """What of an input is a constant of the graph."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class PassKey:
    """What a graph is specialised for; everything else is an input."""

    build: Callable[[torch.Generator], nn.Module]
    kind: Callable[[str], LayerKind]
    loss: LossFunction
    slots: tuple[Slot, ...]
    power_of_two: bool
    margin: float
    overflow: Overflow
    stochastic: bool
    x: Layout
    y: Layout
    device: torch.device
    threads: int


_EMBEDDING_BACKWARD = torch.ops.aten.embedding_dense_backward.default


class _Decompositions(dict[Any, Any]):
    """torch's own, but for the backward of an embedding.

    Decomposed it adds rows atomically, as the threads come along; undecomposed in a fixed order. Pickled by
    name, for torch makes it part of the key under which it keeps a compiled graph for the next process.
    """

    def __init__(self) -> None:
        from torch._inductor.decomposition import select_decomp_table

        super().__init__(select_decomp_table())
        self.pop(_EMBEDDING_BACKWARD, None)

    def __reduce__(self) -> tuple[type[_Decompositions], tuple[()]]:
        return type(self), ()


class _Shapes:
    """A rounding that rounds nothing, and noise that is none: notes how large both would be."""

    def __init__(self) -> None:
        self.operands: list[Sequence[int]] = []
        self.noise: dict[tuple[int, ...], list[int]] = {}

    def leaves_alone(self, layer: int) -> bool:
        return False

    def takes_matrices(self, layer: int) -> bool:
        return False

    def round(self, layer: int, role: int, x: Tensor) -> tuple[Tensor, Tensor]:
        self.operands.append(x.shape)
        return x, x

    def draw(self, x: Tensor) -> Tensor:
        self.noise.setdefault(tuple(x.shape), []).append(sum(map(len, self.noise.values())))
        return x


class Recording:
    """One eager pass written down: the graph, and what its outputs are."""

    def __init__(self, key: PassKey) -> None:
        self._key = key
        self._slot = PassSlot()
        with torch.device("meta"):
            self._model = key.build(torch.Generator())
            named = prepare_layers(self._model, self._slot, key.kind)
            x = torch.zeros(key.x.shape, dtype=key.x.dtype)
        self.layers = len(named)
        hidden = hidden_layers(self._model, {name: key.kind(name) for name, _ in named})
        self._flat: FlatParameters = flatten(self._model, hidden)
        seen = _Shapes()
        for _, layer in named:  # the gradient has the shape of the product
            layer.register_forward_hook(lambda layer, given, product: seen.operands.append(product.shape))
        with torch.no_grad(), self._slot.use(seen, seen.draw):
            self._model(x)
        for _, layer in named:
            layer._forward_hooks.clear()
        self.most_lines = max(map(line_count, seen.operands))
        self.noise = seen.noise
        """Shape of a noise -> the dropout layers that draw it, numbered in the order of execution."""
        self.order: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.weights: list[int] = []
        self.scales: list[tuple[int, int]] = []

    def compile(self) -> Callable[..., Sequence[Tensor]]:
        """Record and compile; the callable takes what ``_pass`` takes."""
        from torch._guards import TracingContext, tracing
        from torch._inductor.compile_fx import compile_fx
        from torch._inductor.lowering import lowerings, make_fallback
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        key = self._key
        inputs = [
            torch.zeros(self._flat.bounds[-1], device=key.device),
            torch.zeros(key.x.shape, dtype=key.x.dtype, device=key.device),
            torch.zeros(key.y.shape, dtype=key.y.dtype, device=key.device),
            torch.ones(self.layers, len(OPERAND_ROLES), 2, device=key.device),
            torch.zeros(len(key.slots) if key.stochastic else 0, 2, dtype=torch.int32, device=key.device),
            torch.ones(self.most_lines, device=key.device),
            *(torch.zeros((len(layers), *shape), device=key.device) for shape, layers in self.noise.items()),
        ]
        with torch.autograd.set_multithreading_enabled(False):
            graph = make_fx(lambda *given: self._pass(*given), tracing_mode="fake")(*inputs)
        if _EMBEDDING_BACKWARD not in lowerings:  # where CI is set, inductor wants it said outright
            make_fallback(_EMBEDDING_BACKWARD, override_decomp=True)
        with torch.no_grad():
            mode = FakeTensorMode(shape_env=ShapeEnv(assume_static_by_default=True))
            with tracing(TracingContext(mode)):
                call: Any = compile_fx(graph, inputs, decompositions=_Decompositions())
            call(*inputs)  # a graph that cannot run is found out here
        return cast(Callable[..., Sequence[Tensor]], call)

    def _pass(
        self, values: Tensor, x: Tensor, y: Tensor, scales: Tensor, keys: Tensor, ones: Tensor, *noise: Tensor
    ) -> list[Tensor]:
        key, flat = self._key, self._flat
        rounding = TracedRounding(
            key.slots,
            scales,
            keys if key.stochastic else None,
            ones,
            power_of_two=key.power_of_two,
            margin=key.margin,
            overflow=key.overflow,
        )
        views = [view.detach().requires_grad_() for view in flat.views(values)]
        drawn = {shape: iter(given.unbind(0)) for shape, given in zip(self.noise, noise, strict=True)}
        with torch.enable_grad(), self._slot.use(rounding, lambda x: next(drawn[tuple(x.shape)])):
            named = dict(zip(flat.names, views, strict=True))
            loss = key.loss(torch.func.functional_call(self._model, named, (x,)), y)
            gradients = torch.autograd.grad(loss, views)
        outputs = [loss.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])]
        self.order = rounding.order
        self.sizes = rounding.sizes
        if rounding.counts:
            amax, sums = zip(*rounding.counts, strict=True)
            outputs += [torch.stack(amax), torch.stack(sums)]
        self.weights = list(rounding.rounded_weights)
        outputs += rounding.rounded_weights.values()
        self.scales = list(rounding.scales_taken)
        return [*outputs, *rounding.scales_taken.values()]
