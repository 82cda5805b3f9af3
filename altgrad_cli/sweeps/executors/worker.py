"""The inside of a worker process: takes one run at a time from its connection and reports on it.

It leaves Ctrl-C, SIGTERM and SIGHUP to its parent, which says "stop" through the connection, and ends when
the parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from altgrad_cli.sweeps.executors.messages import Progress, Stop, Task, TaskReport
from altgrad_cli.training.events import Evaluated, Event, StepCompleted

_REPORT_EVERY = 0.25
"""Seconds between two progress messages."""


def work(connection: Connection) -> None:
    """Serve one ``Task`` after the other until the other end closes."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to a whole group of processes, or to a whole terminal
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Several processes share the cores: the libraries below torch must not take them all.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            if isinstance(message, Task):  # a Stop that comes after its task is over stops nothing
                connection.send(_run(message, connection))


def _run(task: Task, connection: Connection) -> TaskReport:
    from altgrad_cli.errors import AltgradError
    from altgrad_cli.runs.folder import RunDirectory, sole_writer
    from altgrad_cli.runs.loggers.wandb import wandb_listeners, wandb_metadata
    from altgrad_cli.runs.loggers.warnings import warnings_as_lines
    from altgrad_cli.runs.resumption import plan_resumption
    from altgrad_cli.runs.run import carry_out
    from altgrad_cli.subjects.yours import subject_named

    directory = RunDirectory(Path(task.run_dir))
    try:
        progress = _Progress(task.name, connection)
        with sole_writer(directory), warnings_as_lines(progress.warn):
            plan = plan_resumption(directory, may_begin_anew=True) if task.resume else None
            config = plan.config if plan else directory.load_config()
            for warning in plan.warnings() if plan else ():
                progress.warn(warning)
            to_wandb = wandb_listeners(config, directory, warn=progress.warn)
            ended = carry_out(
                config,
                directory,
                [progress, *to_wandb],
                subject=subject_named(config, task.subject),
                resume=plan,
                stop_requested=_stop_asker(connection),
                metadata=wandb_metadata(to_wandb),
            )
    except AltgradError as error:
        where = f" ({error.where})" if error.where else ""
        return TaskReport(name=task.name, kind="failed", message=f"{error.message}{where}")
    except Exception as error:  # noqa: BLE001 - one arm's fault must not end the others
        message = f"{type(error).__name__}: {error}"
        return TaskReport(name=task.name, kind="failed", message=message, traceback=traceback.format_exc())
    return TaskReport(name=task.name, kind="finished" if ended else "stopped")


def _stop_asker(connection: Connection) -> Callable[[], bool]:
    """True once the parent said "stop", or is gone."""

    stopped = False

    def stop_requested() -> bool:
        nonlocal stopped
        try:
            stopped = stopped or (connection.poll() and isinstance(connection.recv(), Stop))
        except (EOFError, OSError):
            stopped = True
        return stopped

    return stop_requested


class _Progress:
    """Tells the parent how far the run is, a few times a second."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name, self._connection = name, connection
        self._next = 0.0
        self._progress = Progress()

    def receive(self, event: Event) -> None:
        if isinstance(event, StepCompleted):
            self._progress = replace(
                self._progress,
                step=event.step,
                loss=event.metrics.get("loss"),
                bit_stall_rate=event.metrics.get("bit_stall_rate"),
            )
        elif isinstance(event, Evaluated):
            self._progress = replace(self._progress, validation_loss=event.validation_loss)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _REPORT_EVERY
            self._report_progress()

    def warn(self, message: str) -> None:
        self._send(TaskReport(name=self._name, kind="warning", message=message))

    def close(self) -> None:
        self._report_progress()  # however short the run was, its last step is told

    def _report_progress(self) -> None:
        if self._progress != Progress():
            self._send(TaskReport(name=self._name, kind="progress", progress=self._progress))

    def _send(self, report: TaskReport) -> None:
        # Without a parent the run goes on to the next step, where it is asked to stop.
        with contextlib.suppress(OSError):
            self._connection.send(report)
