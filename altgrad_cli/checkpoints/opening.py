"""The one place where a file of tensors is opened: a regular file, or an error that says what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from altgrad_cli.errors import CheckpointError
from altgrad_cli.files import NotAFileError, open_regular

_LFS_POINTER = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """(the file at its first byte, its size). Nothing is read from what is no regular file: it could hang.

    Raises:
        CheckpointError: absent, unreadable, empty, no regular file, or a git-lfs pointer in its place.
    """
    where = str(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CheckpointError("the file is empty", where=where)
            head = file.read(200)
            if head.startswith(_LFS_POINTER):
                raise CheckpointError(
                    f"a git-lfs pointer, not the file it stands for{_lfs_size(head)}",
                    where=where,
                    hint=f"git lfs pull --include {path.name}",
                )
            file.seek(0)
            yield file, size
    except NotAFileError as error:
        raise CheckpointError(f"not a file but {error.kind}", where=where, hint=folder_hint(path)) from None
    except FileNotFoundError:
        raise CheckpointError("there is no such file", where=where) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"the file cannot be read: {reason}", where=where) from None


def _lfs_size(head: bytes) -> str:
    size = next((line[5:] for line in head.splitlines() if line.startswith(b"size ")), b"")
    return f" ({int(size):,} bytes)" if size.isdigit() else ""


def folder_hint(path: Path) -> str | None:
    """Which checkpoints a folder holds, so that one of them can be named."""
    if not path.is_dir():
        return "copy it into a file first"
    inside = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    names = sorted(item.name for item in inside.glob("*.pt"))
    return f"it holds: {', '.join(names[:8])}" if names else "give a file"
