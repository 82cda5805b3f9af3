"""Arms on a Ray cluster of two nodes, both on this machine: placed, stopped, killed, a node taken away."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.files import write_whole
from altgrad_cli.runs.folder import create_run
from altgrad_cli.runs.log import has_ended
from altgrad_cli.sweeps.executors.choice import Workplace, parse_workplace
from altgrad_cli.sweeps.executors.messages import TOKEN, Surroundings, Task, TaskReport
from altgrad_cli.sweeps.executors.ray_agent import _problem
from altgrad_cli.sweeps.executors.ray_cluster import Cluster, Need
from altgrad_cli.sweeps.executors.ray_executor import RayExecutor
from tests.sweeps.executors.test_local import until
from tests.sweeps.executors.two_nodes import TwoNodes

Tiny = Callable[..., TrainConfig]
RUN = Task(name="", run_dir="", resume=False, device="cpu")


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture
def executor(nodes: TwoNodes, tmp_path: Path) -> Iterator[RayExecutor]:
    executor = RayExecutor(Cluster(nodes.address, cpus=2), tmp_path, RUN, None)
    yield executor
    executor.close()


def task(tmp_path: Path, name: str, config: TrainConfig) -> Task:
    return Task(name=name, run_dir=str(create_run(tmp_path / name, config).path), resume=False, device="cpu")


def ends(reports: list[TaskReport]) -> dict[str, str]:
    return {report.name: report.kind for report in reports if report.is_last}


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(happened: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def writer_of(run: Path) -> int:
    """The process that writes the run's log."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if any(
                    Path(os.path.realpath(fd)) == run / "events.jsonl" for fd in (process / "fd").iterdir()
                ):
                    return int(process.name)
            except OSError:
                continue
    return 0


def test_runs_go_to_every_node_and_agents_are_used_again(
    tmp_path: Path, tiny: Tiny, executor: RayExecutor
) -> None:
    assert executor.free_slots() == 2
    for name in ("a", "b"):
        executor.start(task(tmp_path, name, tiny()))
    assert executor.free_slots() == 0
    until(executor, 2, "finished")
    assert len({placed.node.node_id for placed in executor._agents if placed.node}) == 2
    executor.start(task(tmp_path, "c", tiny("fp8_format=E7M0")))
    reports = until(executor, 1, "finished")
    assert any(report.progress is not None and report.progress.loss for report in reports)
    assert all(has_ended(tmp_path / name) for name in "abc")
    assert len(executor._agents) == 2
    assert (tmp_path / TOKEN).is_file()
    executor.close()
    assert not (tmp_path / TOKEN).exists()


def test_what_ends_badly_takes_nothing_with_it(tmp_path: Path, tiny: Tiny, executor: RayExecutor) -> None:
    broken = task(tmp_path, "broken", tiny())
    config = tmp_path / "broken" / "config.yaml"
    config.write_text(config.read_text().replace("small.txt", "no-such.txt"))
    executor.start(broken)
    executor.start(task(tmp_path, "killed", tiny("inject=kill@4")))
    reports = until(executor, 2, "failed", "died")
    assert ends(reports) == {"broken": "failed", "killed": "died"}
    said = {report.name: report.message for report in reports if report.is_last}
    assert "no-such.txt" in said["broken"]
    assert said["killed"] == "the worker process was killed by signal 9"
    executor.start(task(tmp_path, "good", tiny()))
    assert ends(until(executor, 1, "finished")) == {"good": "finished"}


def test_a_stop_leaves_every_run_resumable(tmp_path: Path, tiny: Tiny, executor: RayExecutor) -> None:
    executor.start(task(tmp_path, "a", tiny("max_steps=100000")))
    until(executor, 1, "progress")
    executor.start(task(tmp_path, "unbegun", tiny("max_steps=100000")))
    executor.stop()
    until(executor, 2, "stopped")
    assert not has_ended(tmp_path / "a")
    assert list((tmp_path / "a" / "checkpoints").glob("step_*.pt"))


def test_a_run_without_its_agent_ends_by_itself_and_goes_on_elsewhere(
    tmp_path: Path, tiny: Tiny, executor: RayExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    first = task(tmp_path, "a", tiny("max_steps=100000"))
    executor.start(first)
    until(executor, 1, "progress")
    orphan = writer_of(tmp_path / "a")
    agent = int(Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(agent, signal.SIGKILL)
    reports = until(executor, 1, "died")
    assert "is gone" in reports[-1].message
    wait_for(lambda: not is_running(orphan))
    assert list((tmp_path / "a" / "checkpoints").glob("step_*.pt"))
    executor.start(Task(name="a", run_dir=first.run_dir, resume=True, device="cpu"))
    until(executor, 1, "progress")
    assert capfd.readouterr().out == "", "stdout is for data"


def test_a_node_that_goes_takes_its_run_only(
    tmp_path: Path, tiny: Tiny, nodes: TwoNodes, executor: RayExecutor
) -> None:
    for name in ("a", "b"):
        executor.start(task(tmp_path, name, tiny("max_steps=100000")))
    until(executor, 2, "progress")
    lost = nodes.second_id
    (on_it,) = [each.task for each in executor._agents if each.node and each.node.node_id == lost]
    assert on_it is not None
    nodes.remove_second()
    reports = until(executor, 1, "died")
    assert ends(reports) == {on_it.name: "died"}
    assert executor.free_slots() == 0, "one node, and a run on it"
    nodes.add_second()
    wait_for(lambda: executor.free_slots() == 1)
    executor.start(Task(name=on_it.name, run_dir=on_it.run_dir, resume=True, device="cpu"))
    until(executor, 1, "progress")


def test_nobody_begins_who_does_not_see_the_folder(tmp_path: Path, tiny: Tiny, executor: RayExecutor) -> None:
    executor.start(task(tmp_path, "a", tiny()))
    write_whole(tmp_path / TOKEN, "of another folder")
    with pytest.raises(UsageError, match="no node of the cluster can carry out a run") as refused:
        until(executor, 1, "finished")
    assert f"{tmp_path} is another folder there" in refused.value.message
    assert not (tmp_path / "a" / "events.jsonl").exists()


def test_what_no_node_has_is_not_waited_for(tmp_path: Path, nodes: TwoNodes) -> None:
    cluster = Cluster(nodes.address, cpus=2)
    try:
        assert cluster.places(Need(cpus=1, gpus=0)) == 2
        assert cluster.places(Need(cpus=1, gpus=1)) == 0
        for task in (Task(name="", run_dir="", resume=False, threads=64), RUN_ON_GPU):
            with pytest.raises(UsageError, match="no node of the cluster has so many"):
                RayExecutor(cluster, tmp_path, task, None)
    finally:
        cluster.close()


RUN_ON_GPU = Task(name="", run_dir="", resume=False, device="cuda")


def test_a_cluster_that_does_not_answer_is_one_error_at_once() -> None:
    """Ray itself would warn for two minutes; behind a port that was free a moment ago there is no cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(UsageError, match=f"no Ray cluster answers at 127.0.0.1:{port}: connection ref") as no:
        Cluster(f"127.0.0.1:{port}", cpus=2)
    assert time.monotonic() - begun < 60
    assert no.value.where == "--executor"
    assert f"ray start --head --port {port}" in str(no.value.hint)


def surroundings(folder: Path, **changes: Any) -> Surroundings:
    return Surroundings(
        **{"folder": str(folder), "token": "abc", "working_dir": None, "environment": {}, **changes}
    )


def test_an_agent_says_what_it_does_not_see(tmp_path: Path) -> None:
    assert _problem(surroundings(tmp_path)) == f"{tmp_path} is not there"
    (tmp_path / TOKEN).write_text("abc")
    assert _problem(surroundings(tmp_path)) is None
    assert _problem(surroundings(tmp_path, token="abd")) == f"{tmp_path} is another folder there"
    nowhere = str(tmp_path / "nowhere")
    problem = _problem(surroundings(tmp_path, working_dir=nowhere))
    assert problem == f"{nowhere} cannot be entered there: no such file or directory"


def test_an_executor_is_named_as_typed() -> None:
    assert parse_workplace("local") == Workplace(by_ray=False)
    assert parse_workplace("ray") == Workplace(by_ray=True)
    assert parse_workplace("ray:auto") == Workplace(by_ray=True, address="auto")
    assert parse_workplace("ray:10.0.0.5:6379") == Workplace(by_ray=True, address="10.0.0.5:6379")


@pytest.mark.parametrize("text", ["", "ray:", "local:2", "rya", "slurm", "ray://host:10001", "ray:ray://h:1"])
def test_what_is_no_executor_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_workplace(text)
    assert refused.value.where == "--executor" or "--executor" in refused.value.message
