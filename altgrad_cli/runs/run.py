"""One run from configuration to a finished folder: the engine's events, written down and passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.folder import RUN_SCHEMA, RunDirectory
from altgrad_cli.runs.loggers.jsonl import JsonlLog
from altgrad_cli.runs.loggers.listener import FanOut, Listener
from altgrad_cli.runs.loggers.warnings import warnings_as_lines
from altgrad_cli.runs.resumption import Resumption, take_up
from altgrad_cli.training.events import Event, RunEnded

if TYPE_CHECKING:
    from altgrad_cli.subjects.subject import Subject
    from altgrad_cli.training.parallel.ranks import Ranks


def _never() -> bool:
    return False


def carry_out(
    config: TrainConfig,
    directory: RunDirectory,
    listeners: Sequence[Listener] = (),
    *,
    subject: Subject | None = None,
    resume: Resumption | None = None,
    stop_requested: Callable[[], bool] = _never,
    capture_requested: Callable[[], bool] = _never,
    metadata: Mapping[str, object] | None = None,
    ranks: Ranks | None = None,
    on_end: Callable[[RunEnded], object] = lambda ended: None,
) -> RunEnded | None:
    """Train ``config`` in ``directory``; the run's last event, or None where it was asked to stop before.

    The caller holds the run (``sole_writer``). Nothing of an earlier run changes before this one is accepted.

    Args:
        subject: what is trained, where it is a user's own.
        listeners: hear every event after it is in the log.
        resume: how a run that was begun goes on; None begins one.
        stop_requested: asked after every step; True writes a checkpoint and stops.
        capture_requested: asked once a step; True writes a forensic checkpoint.
        metadata: what checkpoints state beside the run itself, such as its id in W&B.
        ranks: this process, the first among those that share every batch; None where it is alone. The others
            ``follow``.
        on_end: called when the run's last event is in the log and the listeners still listen, so that what it
            leaves in the folder is theirs to send on.
    """
    from altgrad_cli.training.engine import train
    from altgrad_cli.training.parallel.ranks import ALONE

    ranks = ranks or ALONE
    events = train(
        config,
        subject=subject,
        run_dir=directory.path,
        resume_from=resume.checkpoint if resume else None,
        capture_requested=capture_requested,
        stop_requested=stop_requested,
        metadata=metadata,
        ranks=ranks,
    )
    last: Event
    with closing(FanOut(listeners)) as heard:
        first = ranks.agreed(lambda: next(events))  # whatever makes the run impossible is said here
        if resume is not None:
            take_up(directory, resume)
        with closing(JsonlLog(directory.events)) as log:
            for last in chain((first,), events):
                log.receive(last)
                heard.receive(last)
        ended = last if isinstance(last, RunEnded) else None
        summarize(directory, last)
        if ended is not None:
            on_end(ended)
    return ended


def summarize(directory: RunDirectory, last: Event) -> None:
    """Write the ``run.json`` of a run whose last event this is; one that did not end is unfinished."""
    ended = last if isinstance(last, RunEnded) else None
    directory.write_summary(
        {
            "schema": RUN_SCHEMA,
            "run": directory.name,
            "outcome": ended.outcome if ended else "unfinished",
            "reason": ended.reason if ended else f"interrupted after step {last.step}",
            "steps": last.step,
            "collapse": ended.collapse if ended else None,
            "verdict": None,
        }
    )


def follow(
    ranks: Ranks,
    config: TrainConfig,
    checkpoint: Path | None,
    subject_of: Callable[[TrainConfig], Subject | None],
) -> None:
    """Train beside the first rank, which writes the run's folder and hears its events.

    Args:
        checkpoint: where to go on from.
        subject_of: what is trained, where it is a user's own.
    """
    from altgrad_cli.checkpoints.file import VerifiedCheckpoint
    from altgrad_cli.runs.signals import RunSignals
    from altgrad_cli.training.engine import train

    def begun() -> Iterator[Event]:
        events = train(
            config,
            subject=subject_of(config),
            resume_from=None if checkpoint is None else VerifiedCheckpoint.read(checkpoint),
            stop_requested=signals.stop_requested,
            capture_requested=signals.capture_requested,
            ranks=ranks,
        )
        next(events)
        return events

    with warnings_as_lines(lambda text: None), RunSignals(patient=True) as signals:
        for _ in ranks.agreed(begun):
            pass
