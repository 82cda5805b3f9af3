"""One sweep by every executor, and by a cluster that falls to pieces: the same table and the same logs."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from altgrad_cli.commands.views.sweep_view import SweepView
from altgrad_cli.runs.log import read_lines
from altgrad_cli.sweeps.engine import SweepOutcome, run_sweep
from altgrad_cli.sweeps.executors.local import LocalExecutor
from altgrad_cli.sweeps.executors.messages import Task
from altgrad_cli.sweeps.executors.protocol import Executor
from altgrad_cli.sweeps.executors.ray_cluster import Cluster
from altgrad_cli.sweeps.executors.ray_executor import RayExecutor
from altgrad_cli.sweeps.results import read_spec
from altgrad_cli.sweeps.specification import SweepSpec
from tests.runs.test_run import history
from tests.small import small
from tests.sweeps.executors.test_ray import is_running, wait_for, writer_of
from tests.sweeps.executors.two_nodes import TwoNodes

DEFAULT = SweepSpec(base=small())
TUNED = SweepSpec(
    base=small("max_steps=4"), order=("E5M2", "E7M0"), rules=("adamw", "lion"), tune=(), seeds=(1, 2)
)
LIKE = Task(name="", run_dir="", resume=False, device="cpu")
Open = Callable[[Path], Executor]


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.shutdown()


def carried_out(spec: SweepSpec, folder: Path, open_executor: Open) -> SweepOutcome:
    folder.mkdir(exist_ok=True)
    executor = open_executor(folder)
    try:
        return run_sweep(spec, folder, executor, SweepView(Console(), quiet=True))
    finally:
        executor.close()


def on_ray(address: str | None, jobs: int | None = None) -> Open:
    return lambda folder: RayExecutor(Cluster(address, cpus=2), folder, LIKE, jobs)


def table(outcome: SweepOutcome) -> str:
    rows = [arm.to_json() for arm in outcome.record.arms]
    return json.dumps([{k: v for k, v in row.items() if k != "run_dir"} for row in rows], default=str)


def logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {log.parent.name: history(log.parent) for log in sorted(folder.glob("*/events.jsonl"))}


def no_step_twice(folder: Path) -> bool:
    steps = [
        [line["step"] for line in read_lines(log.parent) if line["event"] == "step"]
        for log in folder.glob("*/events.jsonl")
    ]
    return bool(steps) and all(each == list(range(1, len(each) + 1)) for each in steps)


@pytest.mark.campaign
@pytest.mark.parametrize("spec", [DEFAULT, TUNED], ids=["default", "tuned"])
def test_who_carries_a_sweep_out_changes_no_bit(spec: SweepSpec, tmp_path: Path, nodes: TwoNodes) -> None:
    ways: dict[str, Open] = {
        "local-1": lambda folder: LocalExecutor(1),
        "local-2": lambda folder: LocalExecutor(2),
        "two-nodes": on_ray(nodes.address),
        "one-node": on_ray(None),  # last: this process, a driver of two clusters in turn, loses the first
    }
    outcomes = {name: carried_out(spec, tmp_path / name, way) for name, way in ways.items()}
    assert {name: outcome.errors for name, outcome in outcomes.items() if outcome.errors} == {}
    if spec is TUNED:
        assert len(outcomes["local-1"].record.arms) >= 60
    assert len({table(outcome) for outcome in outcomes.values()}) == 1
    first = logs(tmp_path / "local-1")
    assert len(first) == len(outcomes["local-1"].record.arms)
    for name in ways:
        assert logs(tmp_path / name) == first, name


def disturb(
    nodes: TwoNodes, folder: Path, rng: random.Random, over: threading.Event, done: list[str]
) -> None:
    """Take something away at random until ``over``: a run's process, its agent, or the second node."""
    while not over.wait(rng.uniform(2, 5)):
        pids = [pid for log in folder.glob("*/events.jsonl") if (pid := writer_of(log.parent.resolve()))]
        what = rng.choice(["worker", "agent", "node"])
        if what == "node":
            nodes.remove_second()
            nodes.add_second()
        elif pids:
            pid = rng.choice(pids)
            if what == "agent":
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(pid, signal.SIGKILL)
        else:
            continue
        done.append(what)


@pytest.mark.campaign
def test_ten_losses_change_nothing(tmp_path: Path, nodes: TwoNodes) -> None:
    """An arm that is hit three times is left unfinished and the sweep resumed, as a user would."""
    spec = SweepSpec(base=small("max_steps=150", "runtime.checkpoint_interval=10"))
    whole = carried_out(spec, tmp_path / "whole", lambda folder: LocalExecutor(2))
    losses: list[str] = []
    for attempt in range(10):
        rng, folder = random.Random(attempt), tmp_path / f"lossy-{attempt}"
        over = threading.Event()
        disturber = threading.Thread(target=disturb, args=(nodes, folder, rng, over, losses))
        disturber.start()
        try:
            outcome = carried_out(spec, folder, on_ray(nodes.address))
            while outcome.errors:
                outcome = carried_out(read_spec(folder), folder, on_ray(nodes.address))
        finally:
            over.set()
            disturber.join()
        assert table(outcome) == table(whole)
        assert logs(folder) == logs(tmp_path / "whole")
        assert no_step_twice(folder)
        if len(losses) >= 10:
            break
    assert len(losses) >= 10
    print(f"{attempt + 1} sweeps, {len(losses)} losses: {losses}")  # noqa: T201 (seen with -s)


@pytest.mark.campaign
def test_nothing_outlives_a_killed_sweep(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.small import ARGUMENTS

    out = tmp_path / "sweep"
    words = [*ARGUMENTS, "max_steps=100000", "--order=e5m2", "--executor=ray", "--jobs=2", "--out", str(out)]
    running = subprocess.Popen([sys.executable, "-m", "altgrad_cli", "sweep", *words, "-q"])
    wait_for(lambda: all((out / arm / "events.jsonl").exists() for arm in ("fp32", "frozen")), 120)
    pids = [writer_of((out / arm).resolve()) for arm in ("fp32", "frozen")]
    running.kill()
    running.wait()
    wait_for(lambda: not any(map(is_running, pids)))
    time.sleep(0.1)
    assert not any(writer_of((out / arm).resolve()) for arm in ("fp32", "frozen"))
