"""A library from a C file: compiled once with the machine's compiler, kept in the user's cache.

Nothing is compiled when altgrad is installed or imported. The file's name in the cache is a hash of all that
its code depends on, so it is found again by every process and never used where it would not fit; it is
compiled under another name, tried, and renamed, so that a process sees all of it or nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from altgrad_cli.files import user_cache

# A product and a sum are never fused, and nothing is reordered: the digits are those of single operations.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-std=gnu11")
_SECONDS = 300


class NoLibrary(Exception):
    """Why there is no library."""


def built(source: Path, defines: Sequence[str], facts: Sequence[str], serves: Callable[[Path], bool]) -> Path:
    """The library of ``source``, from the cache or compiled now.

    Args:
        defines: of the preprocessor, ``NAME=value``.
        facts: what else the verdict of ``serves`` depends on, beside this machine's processor.
        serves: whether the library at a path does what it should; asked once, before it is kept.

    Raises:
        NoLibrary: no compiler, no place for it, or a library that does not serve.
    """
    code = source.read_bytes()
    parts = (*_FLAGS, *defines, *facts, _processor())
    name = hashlib.sha256(code + "\0".join(parts).encode()).hexdigest()[:32]
    folder = user_cache()
    if folder is None:
        raise NoLibrary("the user has no cache folder")
    kept = folder / "native" / f"{source.stem}-{name}.so"
    if kept.exists():
        return kept
    compiler = _compiler()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as place:
            fresh = Path(place) / kept.name
            _compile([*compiler, *_FLAGS, *(f"-D{define}" for define in defines)], source, fresh)
            if not serves(fresh):
                raise NoLibrary(f"{compiler[0]} made a kernel whose bits are not torch's")
            fresh.replace(kept)
    except OSError as error:
        raise NoLibrary(f"{error.strerror or error}: {error.filename or kept.parent}") from None
    return kept


def _compiler() -> list[str]:
    given = shlex.split(os.environ.get("CC", ""))
    for words in (given, ["cc"], ["gcc"], ["clang"]):
        if words and (path := shutil.which(words[0])):
            return [path, *words[1:]]
    raise NoLibrary("no C compiler was found")


def _compile(command: Sequence[str], source: Path, target: Path) -> None:
    words = [*command, "-shared", "-fPIC", str(source), "-o", str(target), "-lm"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NoLibrary(f"{command[0]} took over {_SECONDS} seconds") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise NoLibrary(f"{command[0]} failed: {reason}")


def _processor() -> str:
    """What ``-march=native`` depends on, as far as it is known: several machines may share a home."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    found = dict.fromkeys(line for line in lines if line.startswith(kinds))
    return "\n".join((platform.system(), platform.machine(), platform.processor(), *found))


def symbol(library: ctypes.CDLL, name: str) -> int | None:
    """The address of a function in ``library`` or in one that it needs; None where there is none."""
    try:
        return ctypes.cast(library[name], ctypes.c_void_p).value
    except AttributeError:
        return None
