"""What lies in a folder: its runs and sweeps, newest first, each looked at as shortly as will do.

A run is told from the end of its log, a sweep from its ``sweep.json``; neither is read whole, so that a
folder of long runs is listed at once. What cannot be read is listed with the reason.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from altgrad_cli.errors import UsageError
from altgrad_cli.runs.folder import CHECKPOINTS, CONFIG, EVENTS, SUMMARY, SWEEP, JsonObject, is_being_written
from altgrad_cli.runs.log import newest_first
from altgrad_cli.sweeps.results import is_sweep, read_sweep
from altgrad_cli.training.events import from_json_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One run or sweep in short. Absent is None, never 0."""

    path: Path
    kind: Literal["run", "sweep"]
    written: datetime
    """When its log (or ``sweep.json``) was last written to, in local time."""
    bytes: int
    """The size of everything in the folder; what a link leads to is not counted."""
    outcome: str
    """A run: ``completed``, ``collapsed`` or ``plateau``; a sweep: ``finished``; either: ``live`` (a process
    is writing it), ``interrupted`` or ``damaged``."""
    detail: str | None = None
    """What is damaged; a sweep's arms, counted by outcome."""
    steps: int | None = None
    final_loss: float | None = None
    """Training loss of the last step."""
    val_loss: float | None = None

    def to_json(self) -> dict[str, object]:
        """Plain values for ``ls --json``."""
        values = {name: getattr(self, name) for name in Listed.__dataclass_fields__}
        return values | {"path": str(self.path), "written": self.written.isoformat(timespec="seconds")}


def list_folder(root: Path) -> list[Listed]:
    """``root`` if it is a run, the runs of ``root`` if it is a sweep, else what lies up to two levels below.

    Raises:
        UsageError: ``root`` is no folder.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder", where="DIR", hint="what lies here: altgrad ls")
    found = [root] if is_run(root) else _children(root) if is_sweep(root) else folders_below(root)
    return sorted(map(look_at, found), key=lambda listed: listed.written, reverse=True)


def folders_below(root: Path) -> list[Path]:
    """Every sweep at most two levels below ``root``, and every run there that belongs to none of them."""
    found = []
    for path in _children(root):
        found += [path] if is_run(path) or is_sweep(path) else _children(path)
    return [path for path in found if is_run(path) or is_sweep(path)]


def _children(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except OSError:
        return []


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run's folder, even one that has lost its log or its configuration."""
    made = (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()
    return made or (path / EVENTS).is_file() or (path / SUMMARY).is_file()


def newest(root: Path) -> Path:
    """The run or sweep at most two levels below ``root`` that was written to last; else UsageError."""
    found = folders_below(root)
    if not found:
        raise UsageError(f"no run below {root}", hint="make one: altgrad train smoke")
    return max(found, key=last_written)


def last_written(path: Path) -> float:
    """Seconds since the epoch at which the run or sweep in ``path`` last grew."""
    marks = [path / name for name in (SWEEP, EVENTS, SUMMARY, CONFIG)]
    return max((mark.stat().st_mtime for mark in marks if mark.exists()), default=path.stat().st_mtime)


def look_at(path: Path) -> Listed:
    """The run or sweep in ``path``; what cannot be read of it is said, never raised."""
    kind: Literal["run", "sweep"] = "sweep" if is_sweep(path) else "run"
    written = datetime.fromtimestamp(last_written(path))
    listed = Listed(path=path, kind=kind, written=written, bytes=_size(path), outcome="damaged")
    try:
        return _sweep(listed) if kind == "sweep" else _run(listed)
    except (UsageError, OSError) as error:
        return replace(listed, detail=str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return replace(listed, detail=f"not written by altgrad: {error!r}")


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:  # it went while it was looked at
                continue
    return total


def _run(listed: Listed) -> Listed:
    if not (listed.path / CONFIG).is_file():
        return replace(listed, detail=f"{CONFIG} is missing")
    has_log = (listed.path / EVENTS).is_file()
    if not has_log and ((listed.path / SUMMARY).exists() or any((listed.path / CHECKPOINTS).iterdir())):
        return replace(listed, detail=f"{EVENTS} is missing")
    last: dict[str, JsonObject] = {}
    steps = 0
    for line in newest_first(listed.path) if has_log else ():
        steps = max(steps, int(line["step"]))
        last.setdefault(str(line["event"]), line)
        if {"step", "evaluated"} <= last.keys():
            break
    ended = last.get("run_ended")
    return replace(
        listed,
        outcome=str(ended["outcome"]) if ended else _going_on(listed.path),
        steps=steps,
        final_loss=_number(last.get("step", {}).get("metrics", {}).get("loss")),
        val_loss=_number(last.get("evaluated", {}).get("validation_loss")),
    )


def _sweep(listed: Listed) -> Listed:
    sweep = read_sweep(listed.path)
    outcomes = Counter(arm.outcome for arm in sweep.arms.values())
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    state = "finished" if sweep.state == "finished" else _going_on(listed.path)
    return replace(listed, outcome=state, detail=f"{len(sweep.arms)} arms: {counted}")


def _going_on(path: Path) -> str:
    return "live" if is_being_written(path) else "interrupted"


def _number(value: object) -> float | None:
    number = from_json_value(value)
    return None if number is None else float(number)
