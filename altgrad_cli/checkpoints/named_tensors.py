"""Tensors by name, and what their values are: the one walk through a stranger's nested dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Key = str | int | float | bool | None

_NETWORKS = ("weights", "model", "state_dict", "model_state_dict", "module")
"""Keys under which checkpoints keep the network, altgrad's own first."""
_MASK_SHARE = 0.05
"""A matrix of 0 and -inf is a mask from this share of -inf; a single -inf among zeros is a failure."""


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One tensor of a file, under the keys that lead to it; without values where torch has no such type."""

    keys: tuple[Key, ...]
    tensor: Tensor | None
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, keys: tuple[Key, ...], tensor: Tensor) -> NamedTensor:
        """A tensor that was read."""
        return cls(keys, tensor, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    @property
    def name(self) -> str:
        """The keys as a state dict writes them."""
        return ".".join(map(str, self.keys)) or "tensor"

    def why_not_judged(self) -> str | None:
        """Why nothing can be said of the values; None where ``exact_values`` has them."""
        if not self.shape or all(self.shape):
            if self.tensor is None:
                return f"torch has no type {self.dtype}"
            if not (self.tensor.is_floating_point() or self.tensor.is_complex()):
                return "no floating-point values"
            values = exact_values(self.tensor)
            if values is None:
                return f"{self.dtype} has no cast to float"
            return "a mask of 0 and -inf" if _is_mask(self.keys, values) else None
        return "no values"


def exact_values(tensor: Tensor) -> Tensor | None:
    """The values on the CPU in a type that holds each exactly and can be computed with.

    That is float32, or float64, complex64 and complex128 where the tensor is of these (complex32 becomes
    complex64). None where torch has no such cast (packed 4-bit types, integers).
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    wide = tensor.dtype in (torch.float64, torch.complex128)
    real, imaginary = (torch.float64, torch.complex128) if wide else (torch.float32, torch.complex64)
    try:
        return tensor.detach().resolve_conj().to("cpu", imaginary if tensor.is_complex() else real)
    except (NotImplementedError, RuntimeError):
        return None


def _is_mask(keys: Sequence[Key], values: Tensor) -> bool:
    """Whether the values are those of an additive attention mask: 0 and -inf, and both of them."""
    if values.is_complex():
        return False
    masked = values == -torch.inf
    share = float(masked.double().mean())
    if not 0 < share < 1 or not bool((masked | (values == 0)).all()):
        return False
    return (values.dim() >= 2 and share >= _MASK_SHARE) or "mask" in str(keys[-1:]).lower()


def walk_tensors(value: object, keys: tuple[Key, ...] = ()) -> list[NamedTensor]:
    """Every tensor in nested dictionaries and lists, in order."""
    if isinstance(value, Tensor):
        return [NamedTensor.of(keys, value)]
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    return [tensor for key, item in items for tensor in walk_tensors(item, (*keys, key))]


def distinct_names(tensors: Sequence[NamedTensor]) -> list[str]:
    """A name for each: with dots, and as Python would write the keys where dots would name two alike."""
    counts = Counter(tensor.name for tensor in tensors)
    return [
        tensor.name if counts[tensor.name] == 1 else "".join(f"[{key!r}]" for key in tensor.keys)
        for tensor in tensors
    ]


def network_of(tensors: Sequence[NamedTensor]) -> list[NamedTensor]:
    """The tensors of the network in a training checkpoint, named from there; all where none is told apart."""
    for key in _NETWORKS:
        inside = [tensor for tensor in tensors if len(tensor.keys) > 1 and tensor.keys[0] == key]
        if inside:
            return [NamedTensor(t.keys[1:], t.tensor, t.dtype, t.shape) for t in inside]
    return list(tensors)
