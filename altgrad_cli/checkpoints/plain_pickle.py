"""Walks the pickle of a torch file without ever running what it names.

A stack machine for the opcodes that torch.save writes. What a pickle refers to by name becomes a ``Name``,
which is never imported; the few calls that torch needs to describe a tensor are carried out here, with every
size checked against the record that is really there.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.errors import CheckpointError

STORAGE_DTYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_BARE_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""Types by name for what was saved without a storage class of its own: float8, packed float4, uint16, ..."""
_MAX_EMPTY = 5_000_000
_MAX_OVERLAP = 1 << 26
"""Elements that an expanded or overlapping tensor may show: what computes with it needs them one by one."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something a pickle refers to by name; never imported."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.name}"


_MARK = object()


class PlainPickle:
    """A stack machine for the opcodes that torch.save writes."""

    def __init__(self, record: Callable[[str, int], bytes], where: str) -> None:
        self._record = record
        self._where = where
        self._storages: dict[str, Tensor] = {}
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def load(self, data: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                if len(self._stack) != 1:
                    raise ValueError("the pickle leaves a stack behind")
                return self._stack[0]
            act = _ACTIONS.get(opcode.name)
            if act is None:
                raise self._refusal(f"pickle opcode {opcode.name}")
            act(self, argument)
        raise ValueError("the pickle does not end")

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"the file holds more than tensors and plain values: {what[:80]}",
            where=self._where,
            hint="nothing in it was run; save the state_dict alone, or as .safetensors",
        )

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("the pickle takes from an empty stack")
        return value

    def _since_mark(self) -> list[object]:
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                items = self._stack[start + 1 :]
                del self._stack[start:]
                return items
        raise ValueError("the pickle closes what it never opened")

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, length: int | None) -> None:
        items = self._since_mark() if length is None else [self._pop() for _ in range(length)][::-1]
        self._stack.append(tuple(items))

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("the pickle appends to something that is no list")
        target.extend(items)

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("the pickle sets items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, float, bool, type(None)):
                raise self._refusal(f"a dictionary key of type {type(key).__name__}")
            target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        known = (
            (module == "collections" and name == "OrderedDict")
            or (module == "torch._utils" and name in _REBUILDERS)
            or (module == "torch" and (name in STORAGE_DTYPES or name in _BARE_DTYPES or name == "Size"))
            or (module == "torch.storage" and name == "UntypedStorage")
        )
        if not known:
            raise self._refusal(f"{module}.{name}")
        self._stack.append(Name(module, name))

    def _persistent(self) -> None:
        described = self._pop()
        if type(described) is not tuple or len(described) < 5:
            raise ValueError("a tensor's storage is not described as torch describes it")
        kind, storage, key, _, length, *view = described
        if (
            any(part is not None for part in view)  # a view of a storage, in files of before torch 0.4
            or kind != "storage"
            or not isinstance(storage, Name)
            or type(key) is not str
            or type(length) is not int
        ):
            raise ValueError("a tensor's storage is not described as torch describes it")
        dtype = STORAGE_DTYPES.get(storage.name, torch.uint8)
        if key not in self._storages:
            data = self._record(key, length * dtype.itemsize)
            if len(data) != length * dtype.itemsize:
                raise ValueError(f"storage {key[:20]} states {length} elements and holds {len(data)} bytes")
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(bytearray(data), dtype=dtype) if data else empty
        tensor = self._storages[key]
        if tensor.dtype != dtype or tensor.numel() != length:
            raise ValueError(f"storage {key[:20]} is described in two ways")
        self._stack.append(tensor)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise self._refusal("a call")
        if function.dotted == "collections.OrderedDict" and not arguments:
            self._stack.append({})
        elif function.dotted == "torch.Size" and len(arguments) == 1:
            self._stack.append(tuple(arguments[0]))
        elif function.name in _REBUILDERS:
            self._stack.append(_REBUILDERS[function.name](*arguments))
        else:
            raise self._refusal(f"a call of {function.dotted}")

    def _build(self) -> None:
        self._pop()  # attributes of an OrderedDict (a state_dict's _metadata)
        if type(self._stack[-1]) is not dict:
            raise self._refusal("an object with a state")


def _as_tensor(storage: object, offset: object, size: object, stride: object) -> Tensor:
    if (
        not isinstance(storage, Tensor)
        or not isinstance(offset, int)
        or not isinstance(size, list | tuple)
        or not isinstance(stride, list | tuple)
        or len(size) != len(stride)
        or any(type(n) is not int or n < 0 for n in (offset, *size, *stride))
    ):
        raise ValueError("a tensor is described by something else than sizes")
    elements = 1
    for length in size:
        elements *= length
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if elements and reach > storage.numel():
        raise ValueError("a tensor reaches beyond its storage")
    if elements > max(storage.numel(), _MAX_OVERLAP):
        raise ValueError(f"an expanded tensor shows {elements} elements of {storage.numel()} stored ones")
    if not elements:
        if max(size) > _MAX_EMPTY:
            raise ValueError("an empty tensor states a size without end")
        return storage.new_empty(size)
    return torch.as_strided(storage, size, stride, offset)


def _rebuild_v2(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    return _as_tensor(storage, offset, size, stride)


def _rebuild_v3(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> Tensor:
    if not isinstance(dtype, Name) or dtype.name not in _BARE_DTYPES or not isinstance(storage, Tensor):
        raise ValueError("a tensor of an unknown type")
    return _as_tensor(storage.view(_BARE_DTYPES[dtype.name]), offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without a tensor")
    return data


_REBUILDERS: dict[str, Callable[..., Tensor]] = {
    "_rebuild_tensor": _rebuild_v2,
    "_rebuild_tensor_v2": _rebuild_v2,
    "_rebuild_tensor_v3": _rebuild_v3,
    "_rebuild_parameter": _rebuild_parameter,
}

_ACTIONS: dict[str, Callable[[PlainPickle, Any], object]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "MARK": lambda machine, _: machine._push(_MARK),
    "POP": lambda machine, _: machine._stack.pop(),
    "POP_MARK": lambda machine, _: machine._since_mark().clear(),
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._extend([machine._pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._update([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._update(machine._since_mark()),
    "GLOBAL": lambda machine, name: machine._global(name),
    "BINPERSID": lambda machine, _: machine._persistent(),
    "REDUCE": lambda machine, _: machine._reduce(),
    "BUILD": lambda machine, _: machine._build(),
    **{
        name: lambda machine, value: machine._push(value)
        for name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
    },
    **{name: lambda machine, value: machine._push(value) for name in ("BINUNICODE", "SHORT_BINUNICODE")},
    **{name: lambda machine, index: machine._put(index) for name in ("BINPUT", "LONG_BINPUT")},
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    **{name: lambda machine, index: machine._get(index) for name in ("BINGET", "LONG_BINGET")},
}
