"""How altgrad writes a whole file: all of it or nothing, durable, and never over what must not be harmed.

A link is written through: what it points to changes, the link stays. A regular file is written beside its
place under another name, synced and renamed, so a reader (or a crash, or a full disk) sees the old file or
the new one. What is no regular file would be destroyed by a rename, so a character device, a pipe with a
reader and one of the process's own streams (``/dev/stdout``) are written directly; all else is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from altgrad_cli.errors import UsageError, WriteError

Content = str | bytes | memoryview | Iterable[bytes]
"""What a file is to hold: text (written as UTF-8), bytes, or bytes in parts."""

_STREAM_FOLDERS = frozenset({"/dev/fd", "/proc/self/fd"})
_MAX_LINKS = 40


def write_whole(path: Path, content: Content) -> None:
    """Write ``content`` to ``path``, replacing what is there; missing folders are made.

    Raises:
        WriteError: it cannot be written; what was at ``path`` is still there, and nothing else is.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, Content]) -> None:
    """Write several files that belong together: none takes its place before all of them are on the disk.

    Raises:
        WriteError: one cannot be written; whatever was there is still there, and nothing else is.
    """
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for path, content in files.items():
            with _write_errors(path):
                if not _is_replaced_whole(path):
                    continue
                target = Path(os.path.realpath(path))
                if not path.is_symlink():
                    made += make_folders(target.parent)
                temporary = temporary_path(target)
                temporary.unlink(missing_ok=True)  # of a process that was killed, and had this one's number
                staged[temporary] = target
                _write_new(temporary, content, like=target)
        for path, content in files.items():
            with _write_errors(path):
                if not _is_replaced_whole(path):
                    _write_directly(path, content)
        for temporary, target in staged.items():
            with _write_errors(target):
                temporary.replace(target)
    except BaseException:
        for temporary in staged:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        remove_empty(made)
        raise
    for folder in {target.parent for target in staged.values()}:
        _sync_folder(folder)


def make_folders(folder: Path) -> list[Path]:
    """Make ``folder`` and what it lies in, or nothing; returns those that were not there, outermost first."""
    missing: list[Path] = []
    while not folder.exists():
        missing.insert(0, folder)
        folder = folder.parent
    try:
        for new in missing:
            new.mkdir(exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Sequence[Path]) -> None:
    """Take away the ``folders`` that ``make_folders`` made, but for those that hold something by now."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it is whole; the name says that it is no such file yet."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


class NotAFileError(OSError):
    """Something else than a file lies at a path; ``kind`` is what, in words."""

    def __init__(self, mode: int) -> None:
        self.kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
        super().__init__(errno.EINVAL, f"It is {self.kind}, not a file")


def open_regular(path: Path) -> BinaryIO:
    """The file at ``path``, to read; OSError where it is none: a pipe may never speak, a device never end."""
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFileError(mode)
    return os.fdopen(descriptor, "rb")


def unused(path: Path) -> Path:
    """``path``, or the same with ``_2``, ``_3``, ... before its suffix where that is taken."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    return free


def is_regular(path: Path) -> bool:
    """Whether writing ``path`` makes or replaces a file, rather than feeding a device, a pipe or a stream."""
    with _write_errors(path):
        return _is_replaced_whole(path)


def check_outputs(*outputs: tuple[str, Path | None], force: bool) -> None:
    """Refuse, before any work is done, output files that a user named and that may not be written.

    Args:
        outputs: options and the file that each was given; None where it was not.
        force: whether an existing file may be replaced.

    Raises:
        UsageError: a file exists, is a folder, may not be written, or two options name the same one.
    """
    given = [(option, path) for option, path in outputs if path is not None]
    for number, (option, path) in enumerate(given):
        for earlier, other in given[:number]:
            if _is_same_file(path, other):
                raise UsageError(f"{earlier} and {option} name the same file: {path}", where=option)
        try:
            _check_output(path, option, force)
        except OSError as error:
            raise UsageError(
                f"cannot write to {path}: {reason_of(error)}", where=option, hint="name a file you may write"
            ) from None


def reason_of(error: OSError) -> str:
    """What the system said, as the end of a sentence: ``no space left on device``."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


def _check_output(path: Path, option: str, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder", where=option, hint="name a file")
    if not _is_replaced_whole(path):
        return
    target = Path(os.path.realpath(path))
    if target.exists():
        if not force:
            raise UsageError(
                f"{path} exists and is not replaced", where=option, hint="name another file, or add --force"
            )
        _check_mode(target)
    folder = target.parent
    while not folder.exists() and not path.is_symlink():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(None, f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(None, f"the folder {folder} may not be written to")


def _is_same_file(path: Path, other: Path) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return path.samefile(other) and not path.is_char_device()
    except OSError:
        return False


def _is_replaced_whole(path: Path) -> bool:
    """False where ``path`` is written directly; OSError where it may not be written at all."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(None, "it is a folder")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise PermissionError(None, "it is neither a file, a pipe nor a character device")
    return stat.S_ISREG(mode) and _own_stream(path) is None


def _own_stream(path: Path) -> int | None:
    """The process's own descriptor that ``path`` is a name of, such as ``/dev/stdout`` and ``/dev/fd/63``."""
    folders = _STREAM_FOLDERS | {os.path.realpath(folder) for folder in _STREAM_FOLDERS}
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if folder in folders and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder) / path.readlink()
    return None


def _check_mode(path: Path) -> None:
    """Refuse a file that is marked read-only: its folder would let it be replaced, and root may do all."""
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(None, "the file is read-only")


def _write_new(temporary: Path, content: Content, like: Path) -> None:
    """Write a file that is not there yet, with the mode and owner of ``like`` where that exists."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        if like.exists():
            _check_mode(like)
            status = like.stat()
            with suppress(OSError):  # only root gives files away
                os.fchown(descriptor, status.st_uid, status.st_gid)
            temporary.chmod(stat.S_IMODE(status.st_mode))
        file.writelines(_parts(content))
        file.flush()
        os.fsync(descriptor)


def _write_directly(path: Path, content: Content) -> None:
    own = _own_stream(path)
    if own is not None:
        descriptor = os.dup(own)
    else:
        # Not blocking while it is opened: a pipe that nobody reads is an error then, not a wait without end.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as stream:
        stream.writelines(_parts(content))


def _parts(content: Content) -> Iterable[bytes | memoryview]:
    if isinstance(content, str):
        return [content.encode("utf-8")]
    return [content] if isinstance(content, bytes | memoryview) else content


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _own_stream(path) is not None:
            raise  # the reader of our output has seen enough, as with anything else that is printed
        reason = "nobody reads this pipe" if error.errno == errno.ENXIO else reason_of(error)
        raise WriteError(f"cannot write {path}: {reason}") from None


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def user_cache(configured: str | None = None) -> Path | None:
    """Where altgrad keeps what it can make again: as configured, $ALTGRAD_CACHE, else in the user's cache.

    None where there is no such place, for instance for a user without a home.
    """
    if chosen := configured or os.environ.get("ALTGRAD_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA"):
        return Path(base) / "altgrad"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "altgrad"
