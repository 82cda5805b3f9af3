"""The process in which wandb lives: apart from training, so that nothing it does can be felt there.

Takes events from a queue and writes them as one row a step. Its own output goes nowhere; what the user
should know goes back through a connection. It ends when training says so, or is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Literal

from altgrad_cli.runs.loggers.wandb_rows import alert_texts, code_counts, evaluation_row, step_row
from altgrad_cli.training.events import (
    Alert,
    Evaluated,
    Event,
    InterventionApplied,
    RunEnded,
    RunStarted,
    StepCompleted,
)

_LOOK_UP_SECONDS = 2.0
_REPORTS = ("failure_report.md", "report.md")
_PLOTS = ("failure_report/*.png", "report/*.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbTarget:
    """Where a run's data goes in W&B."""

    run_id: str
    mode: Literal["online", "offline"]
    project: str
    name: str
    group: str | None
    """The sweep that the run is an arm of."""
    tags: tuple[str, ...]
    folder: str
    """The run's folder; wandb's own files go below it."""


class Ended:
    """Put into the queue after the last event."""


def serve(events: Queue[Event | Ended], reports: Connection, target: WandbTarget) -> None:
    """Log what comes through the queue ``events`` until ``Ended``; a problem is one line to ``reports``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence()
    try:
        session = _Session.open(target)
    except Exception as error:  # noqa: BLE001 - whatever wandb raises must stay in this process
        _report(reports, f"not logged: {_first_line(error)}")
        return
    clean = False
    try:
        clean = _listen(events, session)
    except Exception as error:  # noqa: BLE001
        _report(reports, f"logging ended: {_first_line(error)}")
    with contextlib.suppress(Exception):
        session.close(clean=clean)


def _listen(events: Queue[Event | Ended], session: _Session) -> bool:
    """True after ``Ended``, False where the training process is gone."""
    parent = multiprocessing.parent_process()
    while True:
        try:
            event = events.get(timeout=_LOOK_UP_SECONDS)
        except queue.Empty:
            if parent is not None and not parent.is_alive():
                return False
            continue
        if isinstance(event, Ended):
            return True
        session.receive(event)


@dataclass(slots=True)
class _Session:
    """One wandb run, and the row of the step that is being put together."""

    run: Any
    folder: Path
    first_step: int
    """Rows before it are in W&B already, from before a resume."""
    layers: Sequence[str] = ()
    step: int = -1
    row: dict[str, object] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)

    @classmethod
    def open(cls, target: WandbTarget) -> _Session:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            init_timeout=60,
            finish_timeout=60,
        )
        run = wandb.init(
            project=target.project,
            name=target.name,
            group=target.group,
            id=target.run_id,
            resume="allow",
            mode=target.mode,
            tags=list(target.tags),
            dir=target.folder,
            settings=settings,
        )
        return cls(run, Path(target.folder), run.step)

    def receive(self, event: Event) -> None:
        """Add one event to the row of its step; a later step sends the row off."""
        if event.step != self.step:
            self._send()
            self.step = event.step
        match event:
            case RunStarted():
                self.layers = event.layers
                self.run.config.update(dict(event.config), allow_val_change=True)
                facts = {"init_hash": event.init_hash, "injections": list(event.injections)}
                self.run.config.update(facts, allow_val_change=True)
            case StepCompleted():
                self.row |= step_row(event, self.layers) | self._histograms(event)
            case Evaluated():
                self.row |= evaluation_row(event)
            case Alert():
                self.alerts.append(event)
            case InterventionApplied():
                self.row[f"intervention/{event.name}"] = 1
            case RunEnded():
                self.run.summary.update({"outcome": event.outcome, "reason": event.reason})
            case _:
                pass

    def close(self, *, clean: bool) -> None:
        """Send what is left, with the reports and the plots that lie in the run's folder."""
        plots = [path for pattern in _PLOTS for path in sorted(self.folder.glob(pattern))]
        files = [path for name in _REPORTS if (path := self.folder / name).is_file()] + plots
        pictures = self._pictures(plots)
        if self.row:
            self.row |= pictures  # in the last step's row
        elif pictures:
            self.run.log(pictures)  # the run was logged before, and only its reports follow
        self._send()
        if files:
            import wandb

            artifact = wandb.Artifact(f"report-{self.run.id}", type="report")
            for path in files:
                artifact.add_file(str(path), name=path.relative_to(self.folder).as_posix())
            self.run.log_artifact(artifact)
        self.run.finish(exit_code=0 if clean else 1)

    def _pictures(self, plots: Sequence[Path]) -> dict[str, object]:
        import wandb

        return {f"plots/{path.stem}": wandb.Image(str(path)) for path in plots}

    def _send(self) -> None:
        if self.row and self.step >= self.first_step:
            self.run.log(self.row, step=self.step)
            for title, text in alert_texts(self.alerts):
                level = "INFO" if title.endswith("cleared") else "WARN"
                self.run.alert(title=title, text=text, level=level, wait_duration=1)
        self.row, self.alerts = {}, []

    def _histograms(self, event: StepCompleted) -> dict[str, object]:
        import numpy as np
        import wandb

        return {
            key: wandb.Histogram(np_histogram=(np.array(counts), np.arange(len(counts) + 1)))
            for key, counts in code_counts(event).items()
        }


def _silence() -> None:
    """Send everything that wandb and its helpers print to nowhere, and give them no terminal to ask at."""
    os.environ["WANDB_SILENT"] = "true"
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for the life of the process


def _report(reports: Connection, message: str) -> None:
    with contextlib.suppress(OSError):
        reports.send(message)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
