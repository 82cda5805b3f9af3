"""Reads what ``torch.save`` wrote before version 1.6, as safely as the zip that it writes since.

Five pickles one after another (a magic number, a version, the writer's machine, the object, the keys of its
storages), then each storage in the order of the keys: its number of elements in 8 bytes, and its bytes. The
object is walked twice: once to learn how long each storage is, and once with the bytes that are really there.
"""

from __future__ import annotations

import io
import pickletools

from altgrad_cli.checkpoints.plain_pickle import PlainPickle

HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of every such file: protocol 2, the magic number."""


def read_legacy(data: bytes, where: str) -> object:
    """The tensors and plain values of such a file.

    Raises:
        CheckpointError: it holds more than these.
        ValueError, KeyError, ...: it is damaged.
    """
    stream = io.BytesIO(data)
    pickles = []
    for _ in range(5):
        start = stream.tell()
        for opcode, _argument, _position in pickletools.genops(stream):
            if opcode.name == "STOP":
                break
        pickles.append(data[start : stream.tell()])
    lengths: dict[str, int] = {}

    def measure(key: str, length: int) -> bytes:
        if length < 0 or length + sum(lengths.values()) > len(data):
            raise ValueError(f"storage {key[:20]} states {length} bytes in a file of {len(data)}")
        lengths[key] = length
        return bytes(length)

    machine = PlainPickle(measure, where).load(pickles[2])
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ValueError("it was written on a big-endian machine")
    PlainPickle(measure, where).load(pickles[3])
    storages: dict[str, bytes] = {}
    keys = PlainPickle(measure, where).load(pickles[4])
    if not isinstance(keys, list):
        raise ValueError("its storages are not listed")
    for key in keys:
        stream.seek(8, io.SEEK_CUR)  # the number of elements, which the object states as well
        storages[key] = stream.read(lengths[key])
        if len(storages[key]) != lengths[key]:
            raise ValueError(f"storage {key[:20]} is cut off")
    return PlainPickle(lambda key, _: storages[key], where).load(pickles[3])
