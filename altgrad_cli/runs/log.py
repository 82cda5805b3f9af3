"""Reading and repairing ``events.jsonl``, line by line, whatever its length.

A run that was killed leaves a torn last line; a resumed run takes steps again that its log already
holds. Both are settled here, so that every reader sees one undisturbed history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altgrad_cli.errors import UsageError

_TAIL_BYTES = 1 << 18
Line = dict[str, Any]
"""One event as it stands in the file: ``{"event": kind, "step": n, ...}``, non-finite numbers as words."""


def read_lines(run_dir: Path) -> Iterator[Line]:
    """The events of the run in ``run_dir``, in order, as plain dicts (see ``training.events`` for the keys).

    A torn last line is passed over. A damaged line elsewhere is a UsageError that names it.
    """
    path = run_dir / "events.jsonl"
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(
            f"no events to read: {path}: {(error.strerror or str(error)).lower()}",
            where=str(path),
            hint="name the folder of a run",
        ) from None
    with file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
            except ValueError:
                raise UsageError(
                    f"damaged line {number} in {path}", where=str(path), hint="the run has to be repeated"
                ) from None
            if isinstance(line, dict):
                yield line


def cut_after(events: Path, step: int) -> int:
    """Cut the log at ``events`` back to what was true when ``step`` steps were taken; the bytes kept.

    Called before a run goes on from a checkpoint of that step: its own lines up to the checkpoint's stay,
    a later step, a torn line and an earlier ending go. No log is a log of length 0.
    """
    if not events.exists():
        return 0
    keep = 0
    with events.open("r+b") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                line = json.loads(raw)
            except ValueError:
                break
            if line.get("event") == "run_ended" or line.get("step", 0) > step:
                break
            keep += len(raw)
        file.truncate(keep)
        file.flush()
        os.fsync(file.fileno())
    return keep


def newest_first(run_dir: Path) -> Iterator[Line]:
    """The events in the last 256 KiB of the log, newest first; a torn last line is passed over.

    Raises:
        UsageError: the log cannot be read, or a line of these is damaged.
    """
    path = run_dir / "events.jsonl"
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            *whole, _ = file.read().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", where=str(path)) from None
    for raw in reversed(whole[1:] if start else whole):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise UsageError(f"a damaged line near the end of {path}", where=str(path))
        yield line


def has_ended(run_dir: Path) -> bool:
    """Whether the log ends in a run's last event; reads the file's tail only."""
    try:
        return next(newest_first(run_dir), {}).get("event") == "run_ended"
    except UsageError:
        return False
