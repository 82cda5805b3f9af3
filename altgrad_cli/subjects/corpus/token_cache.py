"""Prepared tokens on disk: one .safetensors file a corpus and tokenizer, memory-mapped, checked when opened.

It holds the tensors ``train`` and ``validation``, and in its metadata, under ``altgrad``, what was said about
them and the sha256 of the whole file as it is with dashes in the checksum's own place.

A file that is cut short, has a flipped bit or answers to another key is treated as absent and written
anew. Files are written under another name and then renamed, so a reader sees all of a file or nothing,
however many processes prepare the same corpus. A folder that cannot be written costs a warning (logger
``altgrad_cli.data``), never the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from altgrad_cli.errors import WriteError
from altgrad_cli.files import user_cache, write_whole

_NO_CHECKSUM = b"-" * 64
_CHECKSUM = re.compile(rb"(?<=sha256\\\": \\\")[0-9a-f]{64}")
_log = logging.getLogger("altgrad_cli.data")


@dataclass(frozen=True, slots=True, eq=False)
class CachedTokens:
    """Both splits as they lie in the cache file, and what was written about them."""

    train: np.ndarray
    validation: np.ndarray
    about: Mapping[str, object]


def cache_folder(configured: str | None) -> Path | None:
    """``user_cache``; None, with a warning, where there is no place."""
    try:
        folder = user_cache(configured)
    except RuntimeError as error:  # a ~ that stands for nobody
        _log.warning("no place for a token cache (%s): tokens stay in memory", error)
        return None
    if folder is None:
        _log.warning("no place for a token cache: tokens stay in memory")
    return folder


def open_tokens(path: Path, key: str) -> CachedTokens | None:
    """The tokens cached under ``path``, read-only; None where there are none that can be trusted."""
    damage = "its checksum does not match"
    try:
        content = np.memmap(path, np.uint8, mode="r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = content[: min(start, len(content))].tobytes()
        checksum = _CHECKSUM.search(header)
        if checksum is not None:
            digest = hashlib.sha256(header[: checksum.start()] + _NO_CHECKSUM + header[checksum.end() :])
            digest.update(content[len(header) :].data)
            if digest.hexdigest() == checksum[0].decode():
                written = json.loads(json.loads(header[8:])["__metadata__"]["altgrad"])
                if written["key"] == key:
                    tokens = content[start:].view(written["dtype"])
                    size = written["train"]
                    return CachedTokens(tokens[:size], tokens[size:], written["about"])
                damage = "another corpus"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # no permission; an empty file cannot be mapped
        damage = getattr(error, "strerror", None) or str(error)
    _log.warning("the token cache %s cannot be used (%s): preparing it anew", path, damage)
    return None


def store_tokens(path: Path, key: str, tokens: CachedTokens) -> bool:
    """Writes ``tokens`` under ``path``, all or nothing; False, and a warning, where that cannot be done."""
    described = {
        "sha256": _NO_CHECKSUM.decode(),
        "key": key,
        "dtype": tokens.train.dtype.newbyteorder("<").str,
        "train": len(tokens.train),
        "about": tokens.about,
    }
    content = save(
        {"train": tokens.train, "validation": tokens.validation}, {"altgrad": json.dumps(described)}
    )
    content = content.replace(_NO_CHECKSUM, hashlib.sha256(content).hexdigest().encode(), 1)
    try:
        write_whole(path, content)
    except WriteError as error:
        _log.warning("no token cache, tokens stay in memory: %s", error)
        return False
    return True
