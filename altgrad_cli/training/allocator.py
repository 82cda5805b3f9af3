"""How the C library treats memory that a step frees."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT = 1 << 30
"""Bytes: free memory up to this stays with the process, and blocks up to this come from it."""


def keep_freed_memory() -> bool:
    """Let the process keep what a step frees: the next step asks for the same again.

    glibc hands large freed blocks back to the system at once, and every page of the next one costs a fault:
    some two thousand a step of the default model, and more time than rounding 16 M values into them.

    Returns:
        Whether the C library took it; others (musl, macOS, Windows) are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_M_MMAP_THRESHOLD, _KEPT))
