"""Which share of a model's multiply-adds is rounded, and by name what is not: never a silent hole.

Counted by torch's ``FlopCounterMode`` in one forward pass; the backward pass does each product twice more. A
causal attention is counted whole, as torch counts it. What torch has no formula for is added here (the CPU's
fused attention, LSTM, products with vectors) or, where a module has matrices and nothing of it was counted,
named without a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from altgrad_cli.surgery.linear import QuantizedLayer

_ATTENTION = "scaled_dot_product"
_CONFIGURED = "left in float32 by the configuration"


@dataclass(frozen=True, slots=True)
class UnroundedProducts:
    """Products of one module that stay in float32."""

    module: str
    operation: str
    """As torch calls it; empty for a look-up, and where torch counted nothing."""
    multiply_adds: int
    why: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a forward pass is rounded."""

    multiply_adds: int
    """Of the whole pass."""
    reached: int
    """Those in layers that altgrad can round."""
    rounded: int
    """Those in layers of which something was rounded in this pass."""
    left_out: tuple[UnroundedProducts, ...]
    """Everything else, the largest first."""

    def __str__(self) -> str:
        """A table for whoever prints it."""
        if not self.multiply_adds:
            return "no multiply-adds were counted"
        whole = self.multiply_adds
        rows = [f"{row.multiply_adds / whole:7.2%}  {row.module}: {row.why}" for row in self.left_out]
        return "\n".join([f"{self.rounded / whole:.2%} of {whole:,} multiply-adds are rounded", *rows])

    @property
    def share(self) -> float | None:
        """The rounded share; None where nothing was counted."""
        return self.rounded / self.multiply_adds if self.multiply_adds else None

    @property
    def unreached(self) -> float | None:
        """The share that no setting of altgrad's could round."""
        return 1 - self.reached / self.multiply_adds if self.multiply_adds else None


def coverage(model: nn.Module, call: Callable[[], object]) -> Coverage:
    """The coverage of ``model`` in ``call``, which runs its forward pass, rounded as it is in training.

    Args:
        model: its layers swapped (``prepare_layers``); neither it nor its buffers are written to here.
        call: changes nothing that has to stay; called once, with autograd on, since torch's fused inference
            paths hide their products.
    """
    swapped = {name: each for name, each in model.named_modules() if isinstance(each, QuantizedLayer)}
    count = CoverageCount(model, swapped)
    with torch.enable_grad():
        count.begin()
        try:
            call()
        finally:
            found = count.end()
    return found


class CoverageCount:
    """Counts the products of one forward pass from ``begin`` to ``end``; both may stand inside its call.

    Args:
        layers: those of ``model`` that altgrad can round, by name, or what stands for them.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, QuantizedLayer]) -> None:
        self._model, self._layers = model, layers
        self._mode = _Counter(display=False, custom_mapping=_FORMULAS)
        self._own: dict[str, Counter[str]] = {}
        """The products of each module, less its children's."""
        self._used: dict[str, bool] = {}
        self._inside: list[Counter[str]] = [Counter()]
        self._handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Listen; nothing that the pass computes is changed by it."""
        for name, module in self._model.named_modules():
            if name:
                self._handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
                self._handles.append(
                    module.register_forward_hook(partial(self._leave, name), always_call=True)
                )
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self._enter("")

    def end(self) -> Coverage:
        """Listen no more; what was counted."""
        self._leave("")
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        modules = dict(self._model.named_modules())
        left_out, counted = [], Counter[str]()
        for name, operations in self._own.items():
            spent, layer = sum(operations.values()), name in self._layers
            counted["all"] += spent
            counted["reached"] += spent * layer
            if self._used.get(name):
                counted["rounded"] += spent
                continue
            module = modules[name]
            for operation, number in operations.items():
                why = _CONFIGURED if layer else _why(module, operation)
                left_out.append(UnroundedProducts(name or "(model)", operation, number, why))
            if not operations and _has_matrix(module):
                left_out.append(UnroundedProducts(name, "", 0, _CONFIGURED if layer else _why(module, "")))
        left_out.sort(key=lambda each: -each.multiply_adds)
        return Coverage(counted["all"], counted["reached"], counted["rounded"], tuple(left_out))

    def _so_far(self) -> Counter[str]:
        counts = self._mode.flop_counts.get("Global", {})
        return Counter({_words(operation): flops // 2 for operation, flops in counts.items()})

    def _enter(self, name: str, *_: object) -> None:
        self._inside.append(self._so_far())
        layer = self._layers.get(name)
        if layer is not None:
            rounding = layer.slot.rounding
            self._used[name] = rounding is not None and not rounding.leaves_alone(layer.index)

    def _leave(self, name: str, *_: object) -> None:
        spent = self._so_far()
        spent.subtract(self._inside.pop())  # of the module and of its children, who took theirs away already
        mine = Counter({key: number for key, number in spent.items() if number})
        self._own.setdefault(name, Counter()).update(mine)
        self._inside = [before + mine for before in self._inside]


class _Counter(FlopCounterMode):
    """Of the whole pass; which module is at work is known by ``CoverageCount``, from any point of a call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mod_tracker = _Everywhere()  # type: ignore[assignment]

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
            return out  # a formula that fits the operation badly is no reason to stop somebody's pass


class _Everywhere(nullcontext[None]):
    parents = frozenset({"Global"})


def _words(operation: Any) -> str:
    name = str(operation).rpartition(".")[2]
    return "fused attention" if _ATTENTION in name else name.strip("_")


def _why(module: nn.Module, operation: str) -> str:
    if operation == "fused attention":
        return "a fused attention: products of activations"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding: a look-up without a product"
    if isinstance(module, nn.MultiheadAttention):
        return "nn.MultiheadAttention: its projections are packed, and called as functions"
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase):
        return f"{type(module).__name__}: no kind of layer that altgrad swaps"
    if not operation:
        return "has a matrix, and torch counts no product of it"
    if operation in ("bmm", "baddbmm"):
        return "a batched product in forward: matmul or einsum, of attention or of experts"
    return "a functional call in forward: F.linear, matmul or einsum"


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def _of_vector(a: Sequence[int], b: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * int(torch.Size(a).numel())


def _of_added_vector(bias: Any, a: Sequence[int], b: Any, *_: Any, **__: Any) -> int:
    return 2 * int(torch.Size(a).numel())


def _of_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(q, k, v)  # type: ignore[no-untyped-call]
    return flops


def _of_recurrence(x: Sequence[int], w: Sequence[int], h: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * int(torch.Size(w).numel() + torch.Size(h).numel())


_aten = torch.ops.aten
_FORMULAS = {
    _aten.mv: _of_vector,
    _aten.dot: _of_vector,
    _aten.addmv: _of_added_vector,
    _aten._scaled_dot_product_flash_attention_for_cpu: _of_attention,
    _aten.mkldnn_rnn_layer: _of_recurrence,
}
"""Operations of which torch's own counter knows nothing."""
