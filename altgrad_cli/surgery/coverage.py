"""Which share of a model's multiply-adds is rounded, and by name what is not: never a silent hole.

Counted by torch's ``FlopCounterMode`` in one forward pass; the backward pass does each product twice more. A
causal attention is counted whole, as torch counts it. What torch has no formula for is added here (the CPU's
fused attention, LSTM, products with vectors) or, where a module has matrices and nothing of it was counted,
named without a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from altgrad_cli.surgery.linear import QuantizedLayer

_ATTENTION = "scaled_dot_product"


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
    mode = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    own: dict[str, Counter[str]] = {}
    used: dict[str, bool] = {}
    with torch.enable_grad(), _listening(model, mode, own, used), mode:
        call()
    modules = dict(model.named_modules())
    left_out, counted = [], Counter[str]()
    for name, operations in own.items():
        module = modules.get(name)
        counted["all"] += sum(operations.values())
        if isinstance(module, QuantizedLayer):
            counted["reached"] += sum(operations.values())
        if used.get(name):
            counted["rounded"] += sum(operations.values())
            continue
        for operation, count in operations.items():
            left_out.append(UnroundedProducts(name or "(model)", operation, count, _why(module, operation)))
        if module is not None and not operations and _has_matrix(module):
            left_out.append(UnroundedProducts(name, "", 0, _why(module, "")))
    left_out.sort(key=lambda each: -each.multiply_adds)
    return Coverage(counted["all"], counted["reached"], counted["rounded"], tuple(left_out))


@contextmanager
def _listening(
    model: nn.Module, mode: FlopCounterMode, own: dict[str, Counter[str]], used: dict[str, bool]
) -> Iterator[None]:
    """Fill ``own`` with the products of each module, less its children's; ``used`` with what is rounded."""
    inside: list[Counter[str]] = [Counter()]

    def so_far() -> Counter[str]:
        counts = mode.flop_counts.get("Global", {})
        return Counter({_words(operation): flops // 2 for operation, flops in counts.items()})

    def enter(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(*_: object) -> None:
            inside.append(so_far())
            if isinstance(module, QuantizedLayer):
                rounding = module.slot.rounding
                used[name] = rounding is not None and not rounding.leaves_alone(module.index)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            spent = so_far()
            spent.subtract(inside.pop())  # of the module and of its children, who took theirs away already
            own.setdefault(name, Counter()).update({key: n for key, n in spent.items() if n})
            for at, before in enumerate(inside):
                inside[at] = before + Counter({key: n for key, n in spent.items() if n})

        return hook

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name, module)))
        handles.append(module.register_forward_hook(leave(name), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _words(operation: Any) -> str:
    name = str(operation).rpartition(".")[2]
    return "fused attention" if _ATTENTION in name else name.strip("_")


def _why(module: nn.Module | None, operation: str) -> str:
    if isinstance(module, QuantizedLayer):
        return "left in float32 by the configuration"
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
