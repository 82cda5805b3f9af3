"""Sends a run to Weights & Biases without ever waiting for it.

wandb lives in a process of its own. Training puts events into a bounded queue and goes on; a hang, an
outage, a full disk or a missing login costs one warning line and what W&B would have shown.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, WriteError
from altgrad_cli.runs.folder import SWEEP, RunDirectory, read_json, write_json
from altgrad_cli.runs.loggers.wandb_process import Ended, WandbTarget, serve
from altgrad_cli.training.events import Event

MAX_WAITING = 4096
"""Events that may wait for W&B; beyond it they are left out there."""
CLOSE_SECONDS = 45.0
"""How long the end of a run waits for W&B to take the rest."""
_ID_FILE = "wandb.json"
_ID_KEY = "wandb_id"


def wandb_listeners(
    config: TrainConfig, directory: RunDirectory, *, warn: Callable[[str], object]
) -> list[WandbLogger]:
    """The W&B logger for a run, or nothing where it is disabled. ``warn`` is given one line if it fails."""
    if config.wandb.mode == "disabled":
        return []
    sweep = directory.path.resolve().parent
    group = (config.wandb.name or sweep.name) if (sweep / SWEEP).is_file() else None
    target = WandbTarget(
        run_id=wandb_id(directory),
        mode=config.wandb.mode,
        project=config.wandb.project,
        # The arms of a sweep share their config's name, so it names their group.
        name=directory.name if group else config.wandb.name or directory.name,
        group=group,
        tags=config.wandb.tags,
        folder=str(directory.path.resolve()),
    )
    return [WandbLogger(target, warn)]


def wandb_metadata(loggers: Sequence[WandbLogger]) -> dict[str, str]:
    """What the checkpoints of the run that ``loggers`` listen to say about W&B."""
    return {_ID_KEY: loggers[0].target.run_id} if loggers else {}


def wandb_id(directory: RunDirectory) -> str:
    """The id of the run in W&B, so that a resume goes on with it; a new one where it was never there.

    It lies in every checkpoint, and beside them from the run's first event on.
    """
    path = directory.path / _ID_FILE
    if path.is_file():
        return str(read_json(path)["id"])
    return _id_in_checkpoint(directory) or secrets.token_hex(4)


def _id_in_checkpoint(directory: RunDirectory) -> str | None:
    from altgrad_cli.checkpoints.retention import newest_readable

    try:
        payload = newest_readable(directory.checkpoints).payload
    except CheckpointError:
        return None
    metadata = payload.get("circumstances")
    run_id = metadata.get(_ID_KEY) if isinstance(metadata, dict) else None
    return str(run_id) if run_id else None


class WandbLogger:
    """Passes events on to the process that talks to W&B.

    The first event starts it: of a run that is refused nothing is left, here or there.
    """

    def __init__(
        self, target: WandbTarget, warn: Callable[[str], object], *, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self.target, self._warn, self._close_seconds = target, warn, close_seconds
        self._started = self._warned = False

    def start(self) -> None:
        """Start the process, and keep the run's id beside it."""
        self._started = True
        id_file = Path(self.target.folder) / _ID_FILE
        if not id_file.exists():
            with contextlib.suppress(WriteError):  # every checkpoint holds it too
                write_json(id_file, {"id": self.target.run_id})
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue(MAX_WAITING)
        self._reports, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=serve, args=(self._events, theirs, self.target), name="altgrad-wandb"
        )
        self._process.daemon = True  # ended with this process, however that ends
        try:
            self._process.start()
        except OSError as error:  # the run has begun and needs no W&B
            self._fail(f"cannot be started ({error}); the run goes on without it")
        theirs.close()

    def receive(self, event: Event) -> None:
        """Queue one event; never waits."""
        if not self._started:
            self.start()
        self._listen()
        if self._warned:
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._fail("does not take data; the run goes on without it")

    def close(self) -> None:
        """Let W&B take the rest, for a limited time."""
        if not self._started:
            return
        if not self._warned:
            with contextlib.suppress(queue.Full):
                self._events.put(Ended(), timeout=1)
        deadline = time.monotonic() + (1.0 if self._warned else self._close_seconds)
        while self._process.is_alive() and time.monotonic() < deadline:
            self._process.join(0.1)
            self._listen()
        self._listen()
        if self._process.is_alive():
            self._fail("did not finish in time; its last data may be missing there")
            self._process.kill()
            self._process.join()
        elif self._process.exitcode:
            self._fail("ended by itself; its last data may be missing there")
        self._process.close()
        self._events.cancel_join_thread()
        self._events.close()
        self._reports.close()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            if self._reports.poll():
                self._fail(str(self._reports.recv()))

    def _fail(self, message: str) -> None:
        """Say it once; the rest of the run is in the log alone."""
        if not self._warned:
            self._warned = True
            self._warn(f"W&B: {message}")
