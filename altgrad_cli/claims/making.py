"""Makes the runs that claims read, several at a time, by what carries out the runs of a sweep."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from altgrad_cli.checkpoints.file import read_checkpoint
from altgrad_cli.checkpoints.payload import Checkpoint
from altgrad_cli.claims.bench import SETTING, BenchRun, Overrides, RunKey
from altgrad_cli.claims.claim import Claim
from altgrad_cli.config.loading import load_config
from altgrad_cli.runs.folder import create_run
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.executors.messages import Task
from altgrad_cli.sweeps.executors.protocol import Executor

Made = tuple[RunKey, BenchRun | str]
"""A run, or why there is none."""


def wanted_runs(claims: Sequence[Claim], seeds: Sequence[int]) -> list[RunKey]:
    """Every run that ``claims`` read, each once, in their order."""
    return list(dict.fromkeys((seed, arm) for claim in claims for arm in claim.arms for seed in seeds))


def make_runs(
    wanted: Sequence[RunKey], folder: Path, executor: Executor, setting: Overrides = SETTING
) -> Iterator[Made]:
    """The runs of ``wanted`` as they end, as many at a time as ``executor`` has room for.

    What comes of a run is the same however many there are beside it: each has its own process and streams.

    Args:
        wanted: what to make, in the order in which they start.
        folder: an empty one, which holds each run's files until the run has been read.
        executor: carries them out.
        setting: overrides of the config ``base`` that all runs share.
    """
    due = deque(enumerate(wanted))
    running: dict[str, RunKey] = {}
    while due or running:
        while due and executor.free_slots():
            number, key = due.popleft()
            running[f"run-{number}"] = key
            executor.start(_task(folder / f"run-{number}", key, setting))
        for report in executor.wait(0.5):
            if not report.is_last:
                continue
            run_dir = folder / report.name
            finished = report.kind == "finished"
            yield running.pop(report.name), read_bench_run(run_dir) if finished else report.message
            shutil.rmtree(run_dir)


def _task(run_dir: Path, key: RunKey, setting: Overrides) -> Task:
    seed, arm = key
    config = load_config("base", [*setting, *arm, f"seed={seed}"])
    create_run(run_dir, config)
    runtime = config.runtime
    return Task(
        name=run_dir.name,
        run_dir=str(run_dir),
        resume=False,
        threads=runtime.threads,
        device=runtime.device,
    )


def read_bench_run(run_dir: Path) -> BenchRun:
    """What claims may read of the finished run in ``run_dir``; UsageError for a damaged log."""
    record = read_run(run_dir, layer_metrics=())
    loss = record.validation.last()
    committed = len(record.steps) - len(record.dropped_steps)
    predicted = record.predicted_stall.get("first_step")
    return BenchRun(
        validation_loss=math.inf if loss is None or not math.isfinite(loss) else loss,
        lost_updates=1 - committed / record.config["max_steps"],
        metrics={name: tuple(series.values.tolist()) for name, series in record.metrics.items()},
        predicted_stall=None if predicted is None else float(predicted),  # type: ignore[arg-type]
        gains=_gains(record),
    )


def _gains(record: RunRecord) -> tuple[tuple[float, ...], ...]:
    """Those in the last regular checkpoint: of altgrad's own network only gains have one dimension."""
    paths = [saved.path for saved in record.checkpoints if saved.reason == "regular" and saved.path]
    if not paths:
        return ()
    path = record.run_dir / paths[-1]
    weights = Checkpoint.from_plain(read_checkpoint(path), str(path)).weights
    return tuple(tuple(weight.tolist()) for weight in weights.values() if weight.dim() == 1)
