"""Which checkpoints of a run stay: the best by validation, the last two, and every anomaly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.errors import CheckpointError
from altgrad_cli.files import unused

BEST = "best.pt"
KEPT = 2
_REGULAR = re.compile(r"step_(\d{6,})\.pt")
_ANOMALY = re.compile(r"anomaly_step_(\d+)(?:_(\d+))?\.pt")
_LEFTOVER = re.compile(r"\..+\.pt\.\d+\.tmp")


def regular_path(folder: Path, step: int) -> Path:
    """Where the regular checkpoint after ``step`` steps goes."""
    return folder / f"step_{step:06d}.pt"


def best_path(folder: Path) -> Path:
    """Where the checkpoint with the lowest validation loss so far goes."""
    return folder / BEST


def anomaly_path(folder: Path, step: int) -> Path:
    """A free name for the forensic checkpoint of ``step``: an earlier one is never overwritten."""
    return unused(folder / f"anomaly_step_{step}.pt")


def regular_checkpoints(folder: Path) -> list[Path]:
    """The regular checkpoints in ``folder``, oldest first."""
    return _numbered(folder, _REGULAR)


def anomaly_checkpoints(folder: Path) -> list[Path]:
    """The forensic checkpoints in ``folder``, in the order of their steps."""
    return _numbered(folder, _ANOMALY)


def _numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The files in ``folder`` whose name is ``name``, in the order of the numbers in it."""
    matches = [(match, path) for path in folder.glob("*.pt") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(([int(n or 0) for n in m.groups()], path) for m, path in matches)]


def discard_old(folder: Path, kept: int = KEPT) -> list[Path]:
    """Remove all regular checkpoints but the last ``kept``; returns what was removed.

    To be called after a new one was written, so that a failed write costs nothing.
    """
    removed = regular_checkpoints(folder)[:-kept]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def set_aside(path: Path) -> Path:
    """Take a checkpoint out of the run's history without losing it; where it is now."""
    return path.replace(unused(path.with_name(f"{path.name}.set-aside")))


def discard_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of writers that were killed; returns what was removed."""
    leftovers = [path for path in folder.glob(".*.tmp") if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def newest_checkpoints(folder: Path) -> Iterator[tuple[Path, VerifiedCheckpoint | CheckpointError]]:
    """The checkpoints that a run may go on from, each as it was read, or why it cannot be read.

    The regular ones, and the best one as the last resort.
    """
    best = best_path(folder)
    for path in [*reversed(regular_checkpoints(folder)), *([best] if best.exists() else [])]:
        try:
            yield path, VerifiedCheckpoint.read(path)
        except CheckpointError as error:
            yield path, error


def newest_readable(folder: Path) -> VerifiedCheckpoint:
    """The latest checkpoint that is whole.

    Raises:
        CheckpointError: the folder holds none.
    """
    problems = []
    for path, saved in newest_checkpoints(folder):
        if isinstance(saved, VerifiedCheckpoint):
            return saved
        problems.append(f"{path.name}: {saved.message}")
    raise CheckpointError(
        "no checkpoint to resume from",
        where=str(folder),
        hint="; ".join(problems) or "the run was ended before its first checkpoint: start it anew",
    )
