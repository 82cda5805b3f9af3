"""What goes through the pipe between a sweep and its workers: tasks, the word to stop, and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One run to carry out, as plain values that can be sent anywhere."""

    name: str
    run_dir: str
    """An existing folder with the run's ``config.yaml``."""
    resume: bool
    """Go on from its last checkpoint, if it has one."""
    subject: str | None = None
    """The user's own subject that the command line names; the only code that the worker loads."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the task at the next step, resumable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is. Absent is None, never 0."""

    step: int = 0
    loss: float | None = None
    bit_stall_rate: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """What an executor has to say about a task."""

    name: str
    kind: Literal["progress", "warning", "finished", "stopped", "failed", "died"]
    """``failed``: the program raised an error; ``died``: the process that ran it is gone. These two, and
    ``stopped`` and ``finished``, are the task's last."""
    message: str = ""
    traceback: str | None = None
    progress: Progress | None = None

    @property
    def is_last(self) -> bool:
        """Whether the task is over."""
        return self.kind not in ("progress", "warning")
