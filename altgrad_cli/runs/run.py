"""One run from configuration to a finished folder: the engine's events, written down and passed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError
from altgrad_cli.runs.folder import RUN_SCHEMA, RunDirectory, sole_writer
from altgrad_cli.runs.log import cut_after
from altgrad_cli.runs.loggers.jsonl import JsonlLog
from altgrad_cli.runs.loggers.listener import FanOut, Listener
from altgrad_cli.training.events import Event, RunEnded


def _never() -> bool:
    return False


def carry_out(
    config: TrainConfig,
    directory: RunDirectory,
    listeners: Sequence[Listener] = (),
    *,
    resume: bool = False,
    stop_requested: Callable[[], bool] = _never,
    capture_requested: Callable[[], bool] = _never,
    circumstances: Mapping[str, Any] | None = None,
    on_end: Callable[[RunEnded], object] = lambda ended: None,
) -> RunEnded | None:
    """Train ``config`` in ``directory``; the run's last event, or None where it was asked to stop before.

    Args:
        listeners: hear every event after it is in the log.
        resume: go on from the newest whole checkpoint, or from the beginning where there is none.
        stop_requested: asked after every step; True writes a checkpoint and stops.
        capture_requested: asked once a step; True writes a forensic checkpoint.
        circumstances: what checkpoints state beside the run itself, such as its id in W&B.
        on_end: called when the run's last event is in the log and the listeners still listen, so that what it
            leaves in the folder is theirs to send on.
    """
    from altgrad_cli.training.engine import train

    last: Event | None = None
    ended: RunEnded | None = None
    with sole_writer(directory):
        resume_from = _rewind(directory) if resume else None
        fan_out = FanOut([JsonlLog(directory.events), *listeners])
        events = train(
            config,
            run_dir=directory.path,
            resume_from=resume_from,
            capture_requested=capture_requested,
            stop_requested=stop_requested,
            circumstances=circumstances,
        )
        try:
            for last in events:
                fan_out.receive(last)
            ended = last if isinstance(last, RunEnded) else None
            _summarize(directory, last, ended)
            if ended is not None:
                on_end(ended)
        finally:
            fan_out.close()
    return ended


def _summarize(directory: RunDirectory, last: Event | None, ended: RunEnded | None) -> None:
    step = last.step if last else 0
    directory.write_summary(
        {
            "schema": RUN_SCHEMA,
            "run": directory.name,
            "outcome": ended.outcome if ended else "unfinished",
            "reason": ended.reason if ended else f"interrupted after step {step}",
            "steps": step,
            "collapse": ended.collapse if ended else None,
            "verdict": None,
        }
    )


def _rewind(directory: RunDirectory) -> Path | None:
    """Put the folder back to its newest whole checkpoint, which is returned; without one, to nothing."""
    from altgrad_cli.checkpoints.retention import discard_later, discard_leftovers, newest_readable

    discard_leftovers(directory.checkpoints)
    try:
        path, payload = newest_readable(directory.checkpoints)
    except CheckpointError:
        cut_after(directory.events, -1)
        return None
    step = int(payload["step"])  # type: ignore[call-overload]
    cut_after(directory.events, step)
    discard_later(directory.checkpoints, step)
    return path
