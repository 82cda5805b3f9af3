"""Checkpoints on disk: written whole or not at all, opened without trust, never rotated into nothing.

A checkpoint is a torch file of tensors and plain values (``torch.load(weights_only=True)`` opens it). It ends
in a seal, the SHA-256 of every byte before it, and carries a content hash: two equal states hash alike, the
time and the place of their writing apart.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from altgrad_cli.checkpoints.legacy_torch_file import HEAD as LEGACY_HEAD
from altgrad_cli.checkpoints.opening import open_tensors
from altgrad_cli.checkpoints.torch_archive import read_torch_archive
from altgrad_cli.errors import CheckpointError
from altgrad_cli.files import write_whole

SCHEMA = "altgrad-checkpoint/1"
Payload = dict[str, Any]
"""The plain values and tensors of a checkpoint; ``training.saving.snapshot`` lists the keys."""
SEAL = b"altgrad sha256 "
_SEAL_LENGTH = len(SEAL) + 64
UNHASHED = frozenset({"circumstances", "environment", "tokens_per_second", "seconds"})
"""Keys that say when, where and how fast, at any depth: kept, sealed, and left out of the content hash."""


def plain_copy(value: object, where: str = "checkpoint") -> Any:
    """``value`` as tensors (contiguous, on the CPU) and plain values only; every leaf is tested.

    Raises:
        CheckpointError: a leaf that no reader could open without running code.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (float, str):  # a subclass, such as a quoted YAML text
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise CheckpointError(f"a key of type {type(key).__name__} cannot be saved", where=where)
        return {plain_copy(key): plain_copy(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_copy(item, f"{where}.{number}") for number, item in enumerate(value)]
    raise CheckpointError(
        f"a {type(value).__name__} cannot be saved", where=where, allowed="tensors, plain values"
    )


def content_hash(value: object) -> str:
    """SHA-256 of plain values and tensors, independent of the order of keys and of ``UNHASHED``."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, value: object) -> None:
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(raw.data)
    elif isinstance(value, Mapping):
        keys = sorted(
            (key for key in value if key not in UNHASHED), key=lambda key: (str(key), str(type(key)))
        )
        digest.update(f"map {len(keys)} ".encode())
        for key in keys:
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, float):
        digest.update(b"float " + struct.pack("<d", value))
    else:
        text = str(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__} {len(text)} ".encode() + text)


def write_checkpoint(path: Path, payload: Mapping[str, object]) -> None:
    """Write ``payload`` to ``path``: all of it or nothing, and durable when this returns.

    Raises:
        CheckpointError: a leaf cannot be saved.
        WriteError: the disk is full, the folder may not be written, ...; what was at ``path`` is still there.
    """
    body = plain_copy(payload)
    body = {"schema": SCHEMA, "content_hash": content_hash(body), **body}
    buffer = io.BytesIO()
    torch.save(body, buffer)
    data = buffer.getbuffer()
    # The last two bytes of a zip are the length of its comment: the seal becomes that comment.
    head = bytes(data[:-2]) + _SEAL_LENGTH.to_bytes(2, "little") + SEAL
    write_whole(path, [head, hashlib.sha256(head).hexdigest().encode()])


@dataclass(frozen=True, slots=True)
class OpenedArchive:
    """What a torch file held, and what vouches for it."""

    contents: object
    sealed: bool
    """Whether it ends in altgrad's seal, and the seal is right."""
    checksums: bool
    """Whether its records have checksums, as a zip's have; they were then verified."""


class VerifiedCheckpoint:
    """A checkpoint that was read and verified, so that what is checked is what a run goes on from."""

    def __init__(self, path: Path, payload: Payload) -> None:
        self.path, self.payload = path, payload

    @classmethod
    def read(cls, path: Path) -> VerifiedCheckpoint:
        """The one at ``path``; CheckpointError as ``read_checkpoint``."""
        return cls(path, read_checkpoint(path))

    def take(self) -> Payload:
        """The payload, which is let go of here: it is as large as the state that it is put into."""
        payload, self.payload = self.payload, {}
        return payload


def read_checkpoint(path: Path) -> Payload:
    """The payload of a checkpoint that altgrad wrote; seal, checksums and content hash are verified first.

    Raises:
        CheckpointError: the file is absent, damaged, changed, of another schema or not a checkpoint.
    """
    return verified_payload(open_archive(path), str(path))


def verified_payload(archive: OpenedArchive, where: str) -> Payload:
    """The payload of an opened archive that altgrad wrote; it is not opened or hashed again.

    Raises:
        CheckpointError: as ``read_checkpoint``.
    """
    payload = archive.contents
    if not isinstance(payload, dict) or not str(payload.get("schema", "")).startswith("altgrad-checkpoint/"):
        raise CheckpointError(
            "not an altgrad checkpoint",
            where=where,
            hint=f"altgrad diagnose-checkpoint {shlex.quote(where)} --format E5M2 reads a state dict",
        )
    if payload["schema"] != SCHEMA:
        raise CheckpointError(
            f"this checkpoint has schema {str(payload['schema'])[:40]!r}", where=where, allowed=SCHEMA
        )
    if not archive.sealed:
        raise CheckpointError("the checkpoint's seal is missing: the file was changed or cut", where=where)
    content = {key: value for key, value in payload.items() if key not in ("schema", "content_hash")}
    if payload.get("content_hash") != content_hash(content):
        raise CheckpointError("the content hash does not match: the checkpoint was changed", where=where)
    return content


def open_archive(path: Path) -> OpenedArchive:
    """The torch file at ``path``; a wrong seal is an error."""
    with open_tensors(path) as (file, size):
        return read_archive(file, size, str(path))


def read_archive(file: BinaryIO, size: int, where: str) -> OpenedArchive:
    """The torch file ``file``, ``size`` bytes long; a wrong seal is an error."""
    file.seek(0)
    head = file.read(len(LEGACY_HEAD))
    zipped = head.startswith(b"PK\x03\x04")
    if not zipped and head != LEGACY_HEAD:
        raise CheckpointError(
            "not a checkpoint: neither a torch file nor a safetensors file",
            where=where,
            hint="give a .pt file written by altgrad or torch.save, or a .safetensors file",
        )
    sealed = zipped and _verify_seal(file, size, where)
    return OpenedArchive(read_torch_archive(file, size, where), sealed, checksums=zipped)


def _verify_seal(file: BinaryIO, size: int, where: str) -> bool:
    if size < _SEAL_LENGTH:
        return False
    file.seek(size - _SEAL_LENGTH)
    ending = file.read(_SEAL_LENGTH)
    if not ending.startswith(SEAL):
        return False
    digest = hashlib.sha256()
    file.seek(0)
    left = size - 64
    while left and (chunk := file.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest().encode() != ending[len(SEAL) :]:
        raise CheckpointError("the checkpoint is damaged: its seal does not match its bytes", where=where)
    return True
