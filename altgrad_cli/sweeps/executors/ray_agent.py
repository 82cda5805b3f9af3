"""What stands in for a sweep on a node of a Ray cluster: has one run at a time carried out beside it.

The run has a process of its own, as under ``LocalExecutor``, which is what carries it out here too: so a run
that is killed ends as there, and one whose agent or node is gone notices the closed pipe, writes a checkpoint
and ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from altgrad_cli.files import reason_of
from altgrad_cli.sweeps.executors.local import LocalExecutor
from altgrad_cli.sweeps.executors.messages import TOKEN, Greeting, Surroundings, Task, TaskReport

_OF_RAY = (":job_id:", ":actor_name:", ":task_name:")
"""Beginnings of the lines that Ray writes to the streams of its workers for itself."""


class Agent:
    """The actor. Its methods are called one after the other."""

    def __init__(self, surroundings: Surroundings) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's own process's to understand
        os.environ.update(surroundings.environment)
        # A process that is spawned loads the file of its parent's main module again: here that is Ray itself.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._surroundings = surroundings
        self._local = LocalExecutor(1)
        self._said = _Streams()
        self._name = ""

    def greet(self) -> Greeting:
        """Look for the sweep's folder, and say where this is."""
        import ray

        context = ray.get_runtime_context()
        return Greeting(
            node_id=context.get_node_id(),
            node=f"{socket.gethostname()} ({ray.util.get_node_ip_address()})",
            problem=_problem(self._surroundings),
            versions=versions(),
        )

    def start(self, task: Task) -> None:
        """Begin ``task``; there is none at the time."""
        self._name = task.name
        self._local.start(task)

    def wait(self, seconds: float) -> list[TaskReport]:
        """What happened since the last call, waiting at most so long for something."""
        reports = self._local.wait(seconds)
        lines = [TaskReport(name=self._name, kind="warning", message=line) for line in self._said.lines()]
        return [*lines, *reports]

    def stop(self) -> None:
        """Ask the task to stop at the next step."""
        self._local.stop()

    def close(self) -> None:
        """End the task where it is."""
        self._local.close()


class _Streams:
    """The output of this process and those that it starts, kept in a file to be told line by line."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process lives
        self._read = 0
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(self._file.fileno(), descriptor)

    def lines(self) -> list[str]:
        """The whole lines since the last call."""
        new = os.pread(self._file.fileno(), 1 << 16, self._read)
        whole, end, _ = new.rpartition(b"\n")
        self._read += len(whole + end) or (len(new) if len(new) == 1 << 16 else 0)
        told = whole.decode("utf-8", "replace").splitlines()
        return [line for line in told if line.strip() and not line.startswith(_OF_RAY)]


def versions() -> dict[str, str]:
    """Package -> version here, of those that the bits of a run depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("altgrad", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path
            found[name] = "not installed"
    return found


def _problem(surroundings: Surroundings) -> str | None:
    """Why no run of the sweep can be carried out here; None where nothing speaks against it."""
    folder = Path(surroundings.folder)
    try:
        if (folder / TOKEN).read_text(encoding="utf-8") != surroundings.token:
            return f"{folder} is another folder there"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileNotFoundError:
        return f"{folder} is not there"
    except OSError as error:
        return f"{folder} cannot be written there: {reason_of(error)}"
    try:
        os.chdir(surroundings.working_dir or ".")
    except OSError as error:
        return f"{surroundings.working_dir} cannot be entered there: {reason_of(error)}"
    return None
