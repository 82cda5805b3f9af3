"""What carries out the runs of a sweep, as the sweep sees it."""

from __future__ import annotations

from typing import Protocol

from altgrad_cli.sweeps.executors.messages import Task, TaskReport


class Executor(Protocol):
    """Runs tasks; results do not depend on how many at once."""

    def free_slots(self) -> int:
        """How many tasks can be started now."""

    def start(self, task: Task) -> None:
        """Start one task; at least one slot must be free."""

    def wait(self, timeout: float) -> list[TaskReport]:
        """What happened since the last call, waiting at most ``timeout`` seconds for something."""

    def stop(self) -> None:
        """Ask all running tasks to stop at the next step, resumable; each still reports ``stopped``."""

    def close(self) -> None:
        """End everything at once."""
