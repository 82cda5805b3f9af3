"""Which checkpoints of a run stay: the best by validation, the last two, and every anomaly."""

from __future__ import annotations

import re
from pathlib import Path

from altgrad_cli.checkpoints.file import read_checkpoint
from altgrad_cli.errors import CheckpointError

BEST = "best.pt"
KEPT = 2
_REGULAR = re.compile(r"step_(\d{6,})\.pt")
_LEFTOVER = re.compile(r"\..+\.pt\.\d+\.tmp")


def regular_path(folder: Path, step: int) -> Path:
    """Where the regular checkpoint after ``step`` steps goes."""
    return folder / f"step_{step:06d}.pt"


def best_path(folder: Path) -> Path:
    """Where the checkpoint with the lowest validation loss so far goes."""
    return folder / BEST


def anomaly_path(folder: Path, step: int) -> Path:
    """A free name for the forensic checkpoint of ``step``: an earlier one is never overwritten."""
    path, number = folder / f"anomaly_step_{step}.pt", 2
    while path.exists():
        path, number = folder / f"anomaly_step_{step}_{number}.pt", number + 1
    return path


def regular_checkpoints(folder: Path) -> list[Path]:
    """The regular checkpoints in ``folder``, oldest first."""
    numbered = [
        (int(found[1]), path) for path in folder.glob("step_*.pt") if (found := _REGULAR.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


def discard_old(folder: Path, kept: int = KEPT) -> list[Path]:
    """Remove all regular checkpoints but the last ``kept``; returns what was removed.

    To be called after a new one was written, so that a failed write costs nothing.
    """
    removed = regular_checkpoints(folder)[:-kept]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def discard_later(folder: Path, step: int) -> list[Path]:
    """Remove the regular checkpoints after ``step``: a run resumed there will write them again."""
    removed = [path for path in regular_checkpoints(folder) if int(path.stem.removeprefix("step_")) > step]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def discard_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of writers that were killed; returns what was removed."""
    leftovers = [path for path in folder.glob(".*.tmp") if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def newest_readable(folder: Path) -> tuple[Path, dict[str, object]]:
    """The checkpoint to resume from and its payload: the latest that is whole.

    Raises:
        CheckpointError: the folder holds none.
    """
    best = best_path(folder)
    candidates = [*reversed(regular_checkpoints(folder)), *([best] if best.exists() else [])]
    problems = []
    for path in candidates:
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            problems.append(f"{path.name}: {error.message}")
    raise CheckpointError(
        "no checkpoint to resume from",
        where=str(folder),
        hint="; ".join(problems) or "the run was ended before its first checkpoint: start it anew",
    )
