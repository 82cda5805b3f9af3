"""The engine: a frozen config goes in, an iterator of events comes out.

``_take_step`` is one step from batch to event, in the order that every claim of this laboratory rests on:
what is decided is decided on what was measured, and acted on before the weights change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.subjects.subject import Batch, Draw, Subject
from altgrad_cli.training.after_step import (
    Run,
    conclude_step,
    end_of_steps,
    evaluate,
    evaluate_and_save,
    has_shadow,
    read_step,
)
from altgrad_cli.training.describe import describe_start, report_holes
from altgrad_cli.training.environment import keep_freed_memory
from altgrad_cli.training.events import Event
from altgrad_cli.training.faults import DATA, Faults, check_data_faults, resolve_injections
from altgrad_cli.training.parallel.ranks import ALONE, Ranks
from altgrad_cli.training.parallel.shares import check_shares
from altgrad_cli.training.saving.archive import Archive, PendingStep, restore
from altgrad_cli.training.saving.snapshot import grid_changed
from altgrad_cli.training.state import TrainState, build_state
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.streams import fork
from altgrad_cli.training.watch.monitors import Monitors


def train(
    config: TrainConfig,
    *,
    subject: Subject | None = None,
    run_dir: Path | None = None,
    resume_from: VerifiedCheckpoint | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    capture_requested: Callable[[], bool] = lambda: False,
    metadata: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Event]:
    """Train as ``config`` says and yield what happens.

    Args:
        config: everything the run depends on; the same config gives the same bits.
        subject: what is trained; None takes that of the config on its corpus, which must be one of altgrad's.
        run_dir: the run's folder; checkpoints go to ``checkpoints`` in it. None writes nothing, and is what
            all ranks but the first are given.
        resume_from: a checkpoint of the same run to continue from, bit for bit; its payload is taken.
        stop_requested: asked after each step; True on any rank writes a checkpoint and ends without
            ``RunEnded``.
        capture_requested: asked once a step; True writes a forensic checkpoint of the state before the step.
        metadata: what checkpoints state beside the state, such as the W&B id.
        ranks: this process among those that share every batch; all yield the same events.

    Raises:
        UsageError: the configuration, the corpus, the device or the checkpoint cannot be used.
    """
    torch.set_num_threads(config.runtime.threads)
    keep_freed_memory()
    subject = subject or load_subject(config)
    if subject.train is None or subject.validation is None:
        raise UsageError("the subject has no batches to train on")
    state = build_state(config, subject, ranks)
    check_shares(state)
    initial_hash = state.init_hash
    payload = None if resume_from is None else restore(state, resume_from)
    monitors = Monitors(config, state)
    injections = resolve_injections(
        config.inject,
        state.plan,
        config.seed,
        after=state.step,
        last_step=config.max_steps,
        ranks=ranks.count,
    )
    if any(injection.module == DATA for injection in injections):
        check_data_faults(injections, state.model, subject.train(fork(state.streams["data"])))
    faults = Faults(injections, config.seed, ranks=ranks.count)
    if payload is not None:
        monitors.load_state_dict(payload["monitors"])
        if grid_changed(config, payload):
            monitors.start_over(config, state)
        faults.struck += payload.get("injections", {}).get("struck", [])
        del payload  # the run may be long, and this is as large as its state
    run = Run(
        config=config,
        state=state,
        monitors=monitors,
        faults=faults,
        archive=None if run_dir is None else Archive(run_dir, faults, metadata or {}),
        capture_requested=capture_requested,
        shadow_buffer=torch.empty_like(state.flat.values) if has_shadow(config, state) else None,
        validation=_validation_batches(config, subject.validation, state),
    )
    started = describe_start(config, state, initial_hash, resume_from.path if resume_from else None)
    yield started
    if state.step == 0:
        yield from report_holes(run, started)
        yield from evaluate(run)
    if state.step >= config.max_steps:
        end_of_steps(run)  # killed between its last checkpoint and its last event
    while run.ended is None:
        yield from _take_step(run, subject.train)
        if run.ended is None and ranks.any(stop_requested()):
            if run.archive is not None:
                yield run.archive.save_regular(state, monitors)
            return
    yield run.ended


def _take_step(run: Run, draw: Draw) -> Iterator[Event]:
    """One training step."""
    state = run.state
    started = time.perf_counter()
    number = state.step + 1
    streams_before = state.streams.state_dict()
    run.faults.before_step(state, number)

    # 1 batch
    batch = draw(state.streams["data"])
    batch = run.faults.alter_batch(batch, number)
    # 2 forward, 3 backward, 4 measure, 5 decide, 6 act, 7 candidate update: nothing has happened yet
    census = run.census(number)
    step = compute_step(
        state,
        batch,
        faults=run.faults,
        clipper=run.monitors.clipper,
        read=lambda result: read_step(run, batch, result),
        out=state.flat.gradient,
        count=run.count,
        observer=census,
    )
    if census is not None:
        census.add_up(state.ranks)
    run.faults.share_what_struck(state.ranks, number)
    # 8 measure the update, commit it; 9 decide to stop, emit
    yield from conclude_step(run, PendingStep(step, streams_before), census, started)
    yield from evaluate_and_save(run)


def _validation_batches(config: TrainConfig, draw: Draw, state: TrainState) -> list[Batch]:
    """The batches of every evaluation: the same each time, from a stream of their own."""
    generator = fork(state.streams["evaluation"])
    return [draw(generator) for _ in range(config.runtime.evaluation_batches)]
