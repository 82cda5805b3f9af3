"""Opens torch's file format without trusting a byte of it.

A torch file is a zip of one pickle and one raw record per tensor storage (before torch 1.6, both one after
another). Python's unpickler runs what a pickle names, and torch's restricted one believes the storage sizes
that a pickle states. Here the pickle is walked opcode by opcode: nothing it names is ever imported or called,
only tensors and plain values can come out, and every size is checked against the record that is really there.
"""

from __future__ import annotations

import struct
import zipfile
from typing import BinaryIO

from altgrad_cli.checkpoints.legacy_torch_file import read_legacy
from altgrad_cli.checkpoints.plain_pickle import Name, PlainPickle
from altgrad_cli.errors import CheckpointError

_MAX_DEPTH = 64
_MAX_NODES = 5_000_000
_PICKLE_LIMIT = 256 << 20  # the pickle holds names and scalars; a larger one is no checkpoint
_BROKEN = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OverflowError,
    struct.error,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    MemoryError,
)


def read_torch_archive(file: BinaryIO, size: int, where: str) -> object:
    """The tensors and plain values of the torch file ``file``, ``size`` bytes long.

    Raises:
        CheckpointError: it is damaged, or holds anything but tensors and plain values.
    """
    try:
        file.seek(0)
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                value = _read(archive, size, where)
        else:
            file.seek(0)
            value = read_legacy(file.read(), where)
        _bound(value, where)
        return value
    except CheckpointError:
        raise
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the file is damaged or incomplete: {reason}", where=where) from None


def _read(archive: zipfile.ZipFile, size: int, where: str) -> object:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise CheckpointError("the file holds two records of one name", where=where)
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError("not a torch file: its records are compressed or encrypted", where=where)
        if entry.file_size != entry.compress_size:
            raise CheckpointError("the file states sizes that contradict each other", where=where)
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError("the file states more data than it holds", where=where)
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(
            "not a checkpoint: a zip file without torch's data.pkl",
            where=where,
            hint="give a .pt file written by altgrad or torch.save, or a .safetensors file",
        )
    if archive.getinfo(pickles[0]).file_size > _PICKLE_LIMIT:
        raise CheckpointError("not a checkpoint: its pickle is larger than 256 MiB", where=where)
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise CheckpointError("the file was written on a big-endian machine", where=where)
    damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"the file is damaged: the checksum of {damaged!r} is wrong", where=where)
    walker = PlainPickle(lambda key, _: archive.read(f"{folder}data/{key}"), where)
    return walker.load(archive.read(pickles[0]))


def _bound(value: object, where: str) -> None:
    """Refuse what is nested, shared or looped so that walking it would not end soon."""
    nodes = 0
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        nodes += 1
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise CheckpointError("the file is nested without end", where=where)
        if isinstance(item, dict):
            pending += [(below, depth + 1) for below in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(below, depth + 1) for below in item]
        elif isinstance(item, Name):
            raise CheckpointError(
                f"the file holds more than tensors and plain values: {item.dotted}", where=where
            )
