"""The inside of a worker process: takes one run at a time from its connection and reports on it.

It leaves Ctrl-C to its parent, which says "stop" through the connection, and ends when the parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_REPORT_EVERY = 0.25
"""Seconds between two progress messages."""


def work(connection: Connection) -> None:
    """Serve ``("run", name, run_dir, resume)`` messages until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Several processes share the cores: the libraries below torch must not take them all.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            if message[0] == "run":
                _, name, run_dir, resume = message
                connection.send(_run(name, Path(run_dir), resume, connection))


def _run(name: str, run_dir: Path, resume: bool, connection: Connection) -> tuple[str, str, dict[str, Any]]:
    from altgrad_cli.errors import AltgradError
    from altgrad_cli.runs.folder import RunDirectory
    from altgrad_cli.runs.loggers.wandb import wandb_circumstances, wandb_listeners
    from altgrad_cli.runs.loggers.warnings import warnings_as_lines
    from altgrad_cli.runs.run import carry_out

    directory = RunDirectory(run_dir)
    try:
        config = directory.load_config()
        progress = _Progress(name, connection)
        with warnings_as_lines(progress.warn):
            ended = carry_out(
                config,
                directory,
                [progress, *wandb_listeners(config, directory, warn=progress.warn)],
                resume=resume,
                stop_requested=_stop_asker(connection),
                circumstances=wandb_circumstances(config, directory),
            )
    except AltgradError as error:
        return "failed", name, {"message": error.message, "where": error.where, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - one arm's fault must not end the others
        return (
            "failed",
            name,
            {"message": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()},
        )
    return ("finished" if ended else "stopped"), name, {}


def _stop_asker(connection: Connection) -> Callable[[], bool]:
    """True once the parent said "stop", or is gone."""

    stopped = False

    def stop_requested() -> bool:
        nonlocal stopped
        try:
            stopped = stopped or (connection.poll() and connection.recv()[0] == "stop")
        except (EOFError, OSError):
            stopped = True
        return stopped

    return stop_requested


class _Progress:
    """Tells the parent how far the run is, a few times a second."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name, self._connection = name, connection
        self._next = 0.0
        self._shown: dict[str, Any] = {}

    def receive(self, event: Any) -> None:
        if event.kind == "step":
            names = ("loss", "tokens_per_second", "bit_stall_rate")
            self._shown |= {"step": event.step} | {name: event.metrics.get(name) for name in names}
        elif event.kind == "evaluated":
            self._shown["validation_loss"] = event.validation_loss
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _REPORT_EVERY
            self._send(self._shown)

    def warn(self, message: str) -> None:
        self._send({"warning": message})

    def close(self) -> None:
        if self._shown:  # however short the run was, its last step is told
            self._send(self._shown)

    def _send(self, details: dict[str, Any]) -> None:
        # Without a parent the run goes on to the next step, where it is asked to stop.
        with contextlib.suppress(OSError):
            self._connection.send(("progress", self._name, dict(details)))
