"""The one place where a file of tensors is opened: a regular file, or an error that says what it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from altgrad_cli.errors import CheckpointError

_LFS_POINTER = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")
_NO_FILE = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISDIR: "a folder",
}


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """(the file at its first byte, its size). Nothing is read from what is no regular file: it could hang.

    Raises:
        CheckpointError: absent, unreadable, empty, no regular file, or a git-lfs pointer in its place.
    """
    where = str(path)
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = next((words for test, words in _NO_FILE.items() if test(status.st_mode)), "special")
                raise CheckpointError(f"not a file but {kind}", where=where, hint=folder_hint(path))
            if status.st_size == 0:
                raise CheckpointError("the file is empty", where=where)
            head = file.read(200)
            if head.startswith(_LFS_POINTER):
                raise CheckpointError(
                    f"a git-lfs pointer, not the file it stands for{_lfs_size(head)}",
                    where=where,
                    hint=f"git lfs pull --include {path.name}",
                )
            file.seek(0)
            yield file, status.st_size
    except FileNotFoundError:
        raise CheckpointError("there is no such file", where=where) from None
    except IsADirectoryError:
        raise CheckpointError("not a file but a folder", where=where, hint=folder_hint(path)) from None
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
