"""Arms in worker processes: side by side, stopped, killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.folder import create_run
from altgrad_cli.runs.log import has_ended
from altgrad_cli.sweeps.executors.local import LocalExecutor
from altgrad_cli.sweeps.executors.messages import Task, TaskReport

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(2)
    yield executor
    executor.close()


def task(tmp_path: Path, name: str, config: TrainConfig) -> Task:
    return Task(name=name, run_dir=str(create_run(tmp_path / name, config).path), resume=False)


def until(executor: LocalExecutor, count: int, *kinds: str, seconds: float = 120) -> list[TaskReport]:
    """Reports until ``count`` of ``kinds`` are in."""
    reports: list[TaskReport] = []
    deadline = time.monotonic() + seconds
    while sum(report.kind in kinds for report in reports) < count:
        assert time.monotonic() < deadline, reports
        reports += executor.wait(0.5)
    return reports


def test_tasks_run_side_by_side_and_workers_are_used_again(
    tmp_path: Path, tiny: Tiny, executor: LocalExecutor
) -> None:
    for name in ("a", "b"):
        executor.start(task(tmp_path, name, tiny()))
    assert executor.free_slots() == 0
    until(executor, 2, "finished")
    assert executor.free_slots() == 2
    executor.start(task(tmp_path, "c", tiny("fp8_format=E7M0")))
    reports = until(executor, 1, "finished")
    assert any(report.progress is not None and report.progress.loss for report in reports)
    assert all(has_ended(tmp_path / name) for name in "abc")


def test_a_fault_in_one_task_is_reported_and_ends_nothing_else(
    tmp_path: Path, tiny: Tiny, executor: LocalExecutor
) -> None:
    broken = task(tmp_path, "broken", tiny())
    config = tmp_path / "broken" / "config.yaml"
    config.write_text(config.read_text().replace("small.txt", "no-such.txt"))
    executor.start(broken)
    executor.start(task(tmp_path, "good", tiny()))
    reports = until(executor, 2, "finished", "failed")
    ends = {report.name: report for report in reports if report.is_last}
    assert ends["good"].kind == "finished"
    assert ends["broken"].kind == "failed"
    assert "no-such.txt" in ends["broken"].message


def test_a_killed_worker_takes_only_its_own_task(tmp_path: Path, tiny: Tiny, executor: LocalExecutor) -> None:
    executor.start(task(tmp_path, "killed", tiny("inject=kill@4")))
    executor.start(task(tmp_path, "good", tiny()))
    reports = until(executor, 2, "finished", "died")
    ends = {report.name: report.kind for report in reports if report.is_last}
    assert ends == {"killed": "died", "good": "finished"}
    assert executor.free_slots() == 2


def test_a_stop_leaves_every_run_resumable(tmp_path: Path, tiny: Tiny, executor: LocalExecutor) -> None:
    executor.start(task(tmp_path, "a", tiny("max_steps=100000")))
    until(executor, 1, "progress")
    executor.stop()
    until(executor, 1, "stopped")
    assert not has_ended(tmp_path / "a")


def test_workers_leave_ctrl_c_to_their_parent(tmp_path: Path, tiny: Tiny, executor: LocalExecutor) -> None:
    executor.start(task(tmp_path, "a", tiny("max_steps=60")))
    until(executor, 1, "progress")
    for worker in executor._workers:
        os.kill(worker.process.pid or 0, signal.SIGINT)
    until(executor, 1, "finished")
