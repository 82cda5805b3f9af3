"""Scratch memory that every rounding of a thread reuses, and the constants it reads.

Fresh buffers would cost more than the arithmetic: their pages have to be mapped each time. Constants are 0-d
tensors because torch wraps a Python number anew at every call.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SLICE = 1 << 19
"""Values a slice on the CPU: large enough to hide Python, small enough for the cache."""

_KEPT_SIZES = 64


_HUGE_PAGE = 1 << 21
_LARGE_RESULT = 1 << 25
"""Bytes: from here on glibc hands freed blocks back to the system, so that the next one is new."""


class Buffer(NamedTuple):
    """Float memory, and the same memory as integers."""

    values: Tensor
    bits: Tensor


class Scratch:
    """Flat float32 buffers of one size; what they are for is up to the user."""

    __slots__ = ("gap", "noise", "random", "whole")

    def __init__(self, size: int, device: torch.device) -> None:
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            memory = (_buffer(number, size, device) for number in range(4))
            self.gap, self.noise, self.whole, self.random = (Buffer(b, b.view(torch.int32)) for b in memory)


class _Store(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[tuple[int, torch.device], Tensor] = {}
        self.sizes: dict[tuple[int, torch.device], Scratch] = {}


_store = _Store()


def scratch(size: int, device: torch.device) -> Scratch:
    """This thread's buffers for ``size`` values on ``device``; the next call may overwrite them."""
    found = _store.sizes.get((size, device))
    if found is None:
        if len(_store.sizes) >= _KEPT_SIZES:
            _store.sizes.clear()
        found = _store.sizes[size, device] = Scratch(size, device)
    return found


def result_like(x: Tensor) -> Tensor:
    """An uninitialised contiguous float32 tensor of the shape and device of ``x``, for a result.

    The pages of a large one are mapped when they are first written, which costs several times the rounding;
    where the system has huge pages to give, it is asked for them, and that becomes one more pass. The memory
    is the tensor's own and goes back with it: who rounds again and again keeps an ``out``.
    """
    result = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    size = result.numel() * result.element_size()
    if size >= _LARGE_RESULT and x.device.type == "cpu" and (advise := _advise()) is not None:
        start = -(-result.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        end = (result.data_ptr() + size) // _HUGE_PAGE * _HUGE_PAGE
        advise(start, end - start, _MADV_HUGEPAGE)
    return result


_MADV_HUGEPAGE = 14


@lru_cache(maxsize=1)
def _advise() -> Callable[[int, int, int], int] | None:
    """The ``madvise`` of Linux; it only advises, so what it answers does not matter."""
    advise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform.startswith("linux") else None
    if advise is not None:
        advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return advise


def workspace(like: Tensor) -> Tensor:
    """This thread's float32 tensor shaped as ``like``, for a result that is gone before the next call."""
    return _buffer(4, like.numel(), like.device).view(like.shape)


def _buffer(number: int, size: int, device: torch.device) -> Tensor:
    buffer = _store.buffers.get((number, device))
    if buffer is None or buffer.numel() < size:
        if buffer is not None:
            _store.sizes.clear()  # its views would keep the smaller buffer alive
        buffer = torch.empty(max(size, SLICE), dtype=torch.float32, device=device)
        _store.buffers[number, device] = buffer
    return buffer[:size]


@lru_cache(maxsize=256)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """``value`` as a 0-d tensor on the CPU, which any device takes as an operand."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype)


@lru_cache(maxsize=8)
def negative_zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """-0, 0-d: what a product is added to that must keep the sign of a zero.

    Not a ``constant``, whose cache takes -0 and 0 for the same number.
    """
    with torch.inference_mode(False):
        return torch.tensor(-0.0, dtype=dtype, device=device)
