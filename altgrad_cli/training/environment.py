"""The process a run has: what its bits may depend on beside the config, and how memory is treated in it."""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import altgrad_cli
from altgrad_cli.subjects.yours import source_of

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT = 1 << 30
"""Bytes: free memory up to this stays with the process, and blocks up to this come from it."""


def describe_environment(
    device: torch.device | str = "cpu",
    *,
    ranks: int = 1,
    parallel: str = "ddp",
    subject: str | None = None,
) -> dict[str, Any]:
    """Plain values only; read anew at each call, since threads and flags can change.

    ``ranks``, and what they share beside the batch (``parallel``), are said where they are several.
    ``subject`` is a user's own, ``module:function``; its source is hashed where this process has loaded it.
    """
    device = torch.device(device)
    several = {"ranks": ranks, "parallel": parallel} if ranks > 1 else {}
    source = None if subject is None else source_of(subject)
    own = {} if source is None else {"subject_source": source}
    return (
        several
        | own
        | {
            "altgrad": altgrad_cli.__version__,
            "revision": source_revision(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.machine(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "flush_denormal": _flushes_denormals(),
        }
    )


def ranks_of(environment: Mapping[str, object]) -> int:
    """How many ranks a recorded environment had; a forged number counts as one."""
    ranks = environment.get("ranks", 1)
    return ranks if isinstance(ranks, int) and ranks >= 1 else 1


def _flushes_denormals() -> bool:
    smallest = torch.tensor([2.0**-149])
    return bool((smallest * 1.0 == 0).item())


@functools.cache
def source_revision() -> str | None:
    """The git commit of the source tree, with ``+changes`` where it differs; None for an installed copy."""
    root = Path(altgrad_cli.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


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
