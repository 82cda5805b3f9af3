"""Compressed files, by the suffix that is added to a file's name: ``law.jsonl.gz``."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shlex
from collections.abc import Callable
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
    open: Callable[[Path], Content]


def _open_zstd(path: Path) -> io.BufferedReader:
    """Through pyarrow, which brings the library along."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            "reading .zst needs pyarrow, which is not installed",
            where=str(path),
            hint=f"pip install 'altgrad[parquet]', or: zstd -d {shlex.quote(str(path))}",
        ) from error
    stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(stream)


COMPRESSIONS = (
    Compression(".gz", "gzip", re.compile(rb"\x1f\x8b"), "gzip -dc", gzip.GzipFile),
    Compression(".bz2", "bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2 -dc", bz2.BZ2File),
    Compression(".xz", "xz", re.compile(rb"\xfd7zXZ\x00"), "xz -dc", lzma.LZMAFile),
    Compression(".zst", "zstd", re.compile(rb"\x28\xb5\x2f\xfd"), "zstd -dc", _open_zstd),
)
_BY_SUFFIX = {compression.suffix: compression for compression in COMPRESSIONS}


def compression_of(path: Path) -> Compression | None:
    """How the file is compressed, by its name; None when it is not."""
    return _BY_SUFFIX.get(path.suffix.lower())


def kind_of(path: Path) -> str:
    """The suffix in lower case that says what is in the file, under its compression: ``.jsonl``."""
    return (Path(path.stem) if compression_of(path) else path).suffix.lower()


def bare_stem(path: Path) -> str:
    """The file's name without the suffixes of kind and compression."""
    return Path(path.stem).stem if compression_of(path) else path.stem


def feed(path: Path, command: str) -> str:
    """A shell command that gives the file's decompressed content to ``command``."""
    file, fitting = shlex.quote(str(path)), compression_of(path)
    if fitting is None or fitting.command == command:
        return f"{command} < {file}"
    return f"{fitting.command} < {file} | {command}"
