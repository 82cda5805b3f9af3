"""Compressed files, by the suffix that is added to a file's name: ``law.jsonl.gz``."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from altgrad_cli.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Content = io.BufferedReader | gzip.GzipFile
"""What every open file here can do: ``read``, ``peek`` and its lines."""
_PORTION = 1 << 16


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to compress a single file."""

    suffix: str
    name: str
    magic: re.Pattern[bytes]
    command: str
    """Decompresses standard input to standard output."""
    open: Callable[[Content], Content]
    """Takes the open compressed file."""


def _open_zstd(file: Content) -> Content:
    """Through pyarrow, which brings the library along."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            "reading .zst needs pyarrow, which is not installed",
            hint="pip install 'altgrad[parquet]', or unpack the file with zstd -d",
        ) from error
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd"))


def _streams(
    file: Content, start: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """What is in one compressed stream after the other, to the file's very end.

    Python's own readers of these two kinds drop what follows the last whole stream without a word.
    """
    packed = file.read(_PORTION)
    while packed:
        stream = start()
        while not stream.eof:
            packed = packed or (file.read(_PORTION) if stream.needs_input else b"")
            if stream.needs_input and not packed:
                raise EOFError("the compressed data ends before its end is marked")
            yield stream.decompress(packed, _PORTION)
            packed = b""
        packed = stream.unused_data.lstrip(b"\0")  # which may fill a stream up to a multiple of four bytes
        while not packed and file.peek(1):
            packed = file.read(_PORTION).lstrip(b"\0")


class _Unpacked(io.RawIOBase):
    """A file of the bytes that ``parts`` make up."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._left = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        while not self._left and (part := next(self._parts, None)) is not None:
            self._left = part
        target = memoryview(buffer)
        size = min(len(target), len(self._left))
        target[:size], self._left = self._left[:size], self._left[size:]
        return size


def _open_gzip(file: Content) -> Content:
    return gzip.GzipFile("", "rb", fileobj=file)


def _open_bzip2(file: Content) -> Content:
    return io.BufferedReader(_Unpacked(_streams(file, bz2.BZ2Decompressor)), _PORTION)


def _open_xz(file: Content) -> Content:
    return io.BufferedReader(_Unpacked(_streams(file, lzma.LZMADecompressor)), _PORTION)


COMPRESSIONS = (
    Compression(".gz", "gzip", re.compile(rb"\x1f\x8b"), "gzip -dc", _open_gzip),
    Compression(".bz2", "bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2 -dc", _open_bzip2),
    Compression(".xz", "xz", re.compile(rb"\xfd7zXZ\x00"), "xz -dc", _open_xz),
    Compression(".zst", "zstd", re.compile(rb"\x28\xb5\x2f\xfd"), "zstd -dc", _open_zstd),
)
_BY_SUFFIX = {compression.suffix: compression for compression in COMPRESSIONS}


@lru_cache(maxsize=64)  # a name is asked several things in a row, and a folder may hold very many
def _taken_apart(name: str) -> tuple[str, str, list[Compression]]:
    """The name without its compressions, its suffix in lower case, and the compressions."""
    layers = []
    stem, _, suffix = name.rpartition(".")
    while stem and (layer := _BY_SUFFIX.get(f".{suffix.lower()}")) is not None:
        layers.append(layer)
        name = stem
        stem, _, suffix = name.rpartition(".")
    return name, f".{suffix.lower()}" if stem and suffix else "", layers


def compressions_of(path: Path) -> list[Compression]:
    """How the file is compressed, by its name, the outermost first: mostly one way or none."""
    return _taken_apart(path.name)[2]


def bare(path: Path) -> Path:
    """``path`` without the suffixes of its compression."""
    name, _, layers = _taken_apart(path.name)
    return path.with_name(name) if layers else path


def kind_of(path: Path) -> str:
    """The suffix in lower case that says what is in the file, under its compression: ``.jsonl``."""
    return _taken_apart(path.name)[1]


def feed(path: Path, layers: Iterable[Compression], command: str = "cat") -> str:
    """A shell command that takes the ``layers`` off the file and gives what is left to ``command``."""
    first, *then = [layer.command for layer in layers] + ([] if command == "cat" else [command]) or ["cat"]
    return " | ".join([f"{first} < {shlex.quote(str(path))}", *then])
