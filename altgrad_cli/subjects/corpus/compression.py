"""Compressed files, by the suffix that is added to a file's name: ``law.jsonl.gz``."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.errors import DataError

Content = io.BufferedReader | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
"""What every open file here can do: ``read``, ``peek`` and its lines."""


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to compress a single file."""

    suffix: str
    name: str
    magic: re.Pattern[bytes]
    command: str
    """Decompresses standard input to standard output."""
    open: Callable[..., Content]
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


def _open_gzip(file: Content) -> Content:
    return gzip.GzipFile("", "rb", fileobj=file)


COMPRESSIONS = (
    Compression(".gz", "gzip", re.compile(rb"\x1f\x8b"), "gzip -dc", _open_gzip),
    Compression(".bz2", "bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2 -dc", bz2.BZ2File),
    Compression(".xz", "xz", re.compile(rb"\xfd7zXZ\x00"), "xz -dc", lzma.LZMAFile),
    Compression(".zst", "zstd", re.compile(rb"\x28\xb5\x2f\xfd"), "zstd -dc", _open_zstd),
)
_BY_SUFFIX = {compression.suffix: compression for compression in COMPRESSIONS}


def compressions_of(path: Path) -> list[Compression]:
    """How the file is compressed, by its name, the outermost first: mostly one way or none."""
    layers = []
    while (layer := _BY_SUFFIX.get(path.suffix.lower())) is not None:
        layers.append(layer)
        path = path.with_suffix("")
    return layers


def bare(path: Path) -> Path:
    """``path`` without the suffixes of its compression."""
    for _ in compressions_of(path):
        path = path.with_suffix("")
    return path


def kind_of(path: Path) -> str:
    """The suffix in lower case that says what is in the file, under its compression: ``.jsonl``."""
    return bare(path).suffix.lower()


def feed(path: Path, layers: Iterable[Compression], command: str = "cat") -> str:
    """A shell command that takes the ``layers`` off the file and gives what is left to ``command``."""
    first, *then = [layer.command for layer in layers] + ([] if command == "cat" else [command]) or ["cat"]
    return " | ".join([f"{first} < {shlex.quote(str(path))}", *then])
