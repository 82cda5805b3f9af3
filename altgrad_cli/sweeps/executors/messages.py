"""What a sweep and its workers say to each other, on this machine and over a cluster: frozen plain values."""

from __future__ import annotations

from collections.abc import Mapping
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
    threads: int = 1
    """Cores that it keeps busy, by its configuration."""
    device: str = "auto"
    """What it runs on, by its configuration."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a worker on another machine needs of the sweep's own process, to be as one beside it."""

    folder: str
    """The sweep's folder, absolute."""
    token: str
    """What the file ``TOKEN`` in it holds: a folder of the same name on another disk does not."""
    working_dir: str | None
    """Where relative paths begin; None: where the worker finds itself."""
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a worker on another machine says first."""

    node_id: str
    node: str
    """Its machine, for a reader."""
    problem: str | None
    """Why it can carry out no run of this sweep."""
    versions: Mapping[str, str]
    """Package -> version, of those that the bits of a run depend on."""


TOKEN = ".seen-by-workers"
"""A file in the sweep's folder while workers on other machines may look for it."""
