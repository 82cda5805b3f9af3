"""Reading and repairing ``events.jsonl``, line by line, whatever its length.

A run that was killed leaves a torn last line; a resumed run takes steps again that its log already
holds. Both are settled here, so that every reader sees one undisturbed history. A line that is no event, and
a step that does not follow the one before, are damage: never averaged over.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.errors import UsageError
from altgrad_cli.files import open_regular, reason_of, unused, write_whole
from altgrad_cli.runs.folder import EVENTS, JsonObject, check_run_schema
from altgrad_cli.runs.line_shape import is_event

RESUMABLE = ("regular", "best")
"""Reasons of the checkpoints that a run may go on from."""
_TAIL_BYTES = 1 << 18
Line = JsonObject
"""One event as it stands in the file: ``{"event": kind, "step": n, ...}``, non-finite numbers as words."""


def read_lines(run_dir: Path) -> Iterator[Line]:
    """The events of the run in ``run_dir``, in order, as plain dicts (see ``training.events`` for the keys).

    A torn last line is passed over.

    Raises:
        UsageError: there is no log; a line of it is damaged, or steps are missing before it: it is named.
            Or a later version wrote the run.
    """
    check_run_schema(run_dir)
    return (line for line, _ in _history(run_dir / EVENTS))


@dataclass(frozen=True, slots=True)
class History:
    """The unbroken part of a log, from its first line on."""

    starts: tuple[Line, ...]
    """Its ``run_started``: the beginning, and every resumption."""
    step: int
    """The last step of it; 0 where it holds none."""
    evaluated: int
    """The last step after which the validation loss was measured."""
    saved: bool
    """Whether it says that a checkpoint to go on from was written."""
    ended: bool
    """Whether it is all of the log, and the run has ended."""
    damage: str | None
    """What follows it and cannot be trusted; None where the log is whole."""


def read_history(run_dir: Path) -> History:
    """How far the log of the run in ``run_dir`` goes without damage; an absent one goes nowhere.

    Raises:
        UsageError: a later version wrote the run.
    """
    starts: list[Line] = []
    last = {"step": 0, "evaluated": 0}
    saved, damage, kind = False, None, None
    lines = read_lines(run_dir)
    try:
        for line in lines:
            kind = line["event"]
            last[kind] = line["step"]
            if kind == "run_started":
                starts.append(line)
            elif kind == "checkpoint" and line["reason"] in RESUMABLE:
                saved = saved or line["path"] is not None
    except UsageError as error:
        damage = error.message
    return History(
        starts=tuple(starts),
        step=last["step"],
        evaluated=last["evaluated"],
        saved=saved,
        ended=damage is None and kind == "run_ended",
        damage=damage,
    )


def cut_after(run_dir: Path, step: int, *, keep: bool = False) -> Path | None:
    """Cut the log back to what was true when ``step`` steps were taken.

    Called before a run goes on from a checkpoint of that step: its own lines up to the checkpoint's stay,
    a later step, a torn line and an earlier ending go. No log is a log of length 0.

    Args:
        keep: put what goes into a file of its own, which is returned: the run will not write it again.
    """
    events = run_dir / EVENTS
    if not events.exists():
        return None
    length = 0
    try:
        for line, end in _history(events):
            if line["event"] == "run_ended" or line["step"] > step:
                break
            length = end
    except UsageError:
        pass  # the damage begins here, and goes
    kept = None
    with events.open("r+b") as file:
        file.seek(length)
        if keep and (rest := file.read()):
            kept = unused(run_dir / f"events_after_step_{step}.jsonl")
            write_whole(kept, rest)
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())
    return kept


def newest_first(run_dir: Path) -> Iterator[Line]:
    """The events in the last 256 KiB of the log, newest first; a torn last line is passed over.

    Raises:
        UsageError: the log cannot be read, a line of these is damaged, or a later version wrote the run.
    """
    check_run_schema(run_dir)
    path = run_dir / EVENTS
    try:
        with open_regular(path) as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            *whole, _ = file.read().split(b"\n")
    except OSError as error:
        raise _unreadable(path, error) from None
    for raw in reversed(whole[1:] if start else whole):
        line = _parsed(raw)
        if line is None:
            raise _damaged(path, f"a damaged line near the end of {path}")
        yield line


def has_ended(run_dir: Path) -> bool:
    """Whether the log ends in a run's last event; reads the file's tail only."""
    try:
        return next(newest_first(run_dir), {}).get("event") == "run_ended"
    except UsageError:
        return False


def _history(path: Path) -> Iterator[tuple[Line, int]]:
    """Every event with the offset of its end, each checked against those before it."""
    taken: int | None = None
    end = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        if not raw.endswith(b"\n"):
            return
        line = _parsed(raw)
        if line is None:
            raise _damaged(path, f"damaged line {number} in {path}")
        problem = _gap(line, taken)
        if problem:
            raise _damaged(path, f"damaged log {path}: {problem} before line {number}")
        taken = line["step"] if line["event"] == "step" else taken or 0
        end += len(raw)
        yield line, end


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            yield from file
    except OSError as error:
        raise _unreadable(path, error) from None


def _parsed(raw: bytes) -> Line | None:
    """The event of one line; None where it holds none."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if is_event(line) else None


def _gap(line: Line, taken: int | None) -> str | None:
    """What is wrong between the ``taken`` steps (None: before the first line) and ``line``; None: nothing."""
    kind, step = line["event"], line["step"]
    if taken is None:
        return None if kind == "run_started" and step == 0 else "the beginning is missing"
    next_step = taken + (kind == "step")
    within = kind == "intervention" or (kind == "checkpoint" and line["reason"] not in RESUMABLE)
    if step == next_step or (within and step == taken + 1):  # before the update of that step
        return None
    if step < next_step:
        return f"step {step} follows step {taken}"
    last = step - (kind == "step")
    return f"step {last} is missing" if last == taken + 1 else f"steps {taken + 1} to {last} are missing"


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"no events to read: {path}: {reason_of(error)}", where=str(path), hint="name the folder of a run"
    )


def _damaged(path: Path, message: str) -> UsageError:
    return UsageError(
        message,
        where=str(path),
        hint=f"altgrad train --resume {shlex.quote(str(path.parent))} goes on from a checkpoint"
        " before the damage, where one is left",
    )
