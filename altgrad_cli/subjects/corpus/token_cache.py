"""Prepared tokens on disk: one file a corpus and tokenizer, memory-mapped, checked whenever it is opened.

    bytes    content
    8        ``altgrad`` and the layout's number
    32       sha256 of everything after it
    8        length n of the header, little-endian
    n        header: JSON, padded with spaces to a multiple of 8
    rest     token ids of the training split, then of the validation split, little-endian

A file that is cut short, has a flipped bit or answers to another key is treated as absent and written
anew. Files are written under another name and then renamed, so a reader sees all of a file or nothing,
however many processes prepare the same corpus. A folder that cannot be written costs a warning (logger
``altgrad_cli.data``), never the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MAGIC = b"altgrad\x01"
_HEADER_START = len(_MAGIC) + 32 + 8
_log = logging.getLogger("altgrad_cli.data")


@dataclass(frozen=True, slots=True, eq=False)
class CachedTokens:
    """Both splits as they lie in the cache file, and what was written about them."""

    train: np.ndarray
    validation: np.ndarray
    about: Mapping[str, object]


def cache_folder(configured: str | None) -> Path | None:
    """Where tokens are cached: as configured, $ALTGRAD_CACHE, else ``altgrad`` in the user's cache folder.

    None where there is no such place, for instance for a user without a home.
    """
    try:
        if chosen := configured or os.environ.get("ALTGRAD_CACHE"):
            return Path(chosen).expanduser()
        if base := os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA"):
            return Path(base) / "altgrad"
        home = Path.home()
    except RuntimeError as error:
        _log.warning("no place for a token cache (%s): tokens stay in memory", error)
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "altgrad"


def open_tokens(path: Path, key: str) -> CachedTokens | None:
    """The tokens cached under ``path``, read-only; None where there are none that can be trusted."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            damage = _find_damage(content)
            header = {} if damage else json.loads(content[_HEADER_START : _payload_start(content)])
            start = 0 if damage else _payload_start(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # no permission; an empty file cannot be mapped
        damage, header, start = getattr(error, "strerror", None) or str(error), {}, 0
    if damage or header["key"] != key:
        _log.warning(
            "the token cache %s cannot be used (%s): preparing it anew", path, damage or "another corpus"
        )
        return None
    dtype = np.dtype(header["dtype"])
    tokens = np.memmap(path, dtype, mode="r", offset=start, shape=(header["train"] + header["validation"],))
    return CachedTokens(tokens[: header["train"]], tokens[header["train"] :], header["about"])


def store_tokens(path: Path, key: str, tokens: CachedTokens) -> bool:
    """Writes ``tokens`` under ``path``, all or nothing; False, and a warning, where that cannot be done."""
    dtype = tokens.train.dtype.newbyteorder("<")
    header = {
        "key": key,
        "dtype": dtype.str,
        "train": len(tokens.train),
        "validation": len(tokens.validation),
        "about": tokens.about,
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text]
    parts += [ids.astype(dtype, copy=False).tobytes() for ids in (tokens.train, tokens.validation)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            temporary = Path(file.name)
            file.writelines([_MAGIC, digest.digest(), *parts])
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _log.warning("cannot write the token cache (%s): tokens stay in memory", error)
        return False
    finally:
        if temporary is not None:  # renamed by now, unless something went wrong on the way
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return True


def _payload_start(content: mmap.mmap) -> int:
    return _HEADER_START + int.from_bytes(content[_HEADER_START - 8 : _HEADER_START], "little")


def _find_damage(content: mmap.mmap) -> str | None:
    """What is wrong with a cache file; None when every byte is as it was written."""
    if content[: len(_MAGIC)] != _MAGIC:
        return "not written by this version"
    with memoryview(content) as view, view[len(_MAGIC) + 32 :] as checked:
        if hashlib.sha256(checked).digest() != content[len(_MAGIC) : len(_MAGIC) + 32]:
            return "its checksum does not match"
    return None
