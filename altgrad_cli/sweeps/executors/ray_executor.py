"""Carries out arms on a Ray cluster: an agent a run, placed by Ray where there is room.

Agents are used again for the next run. The folders of the runs lie on storage that all nodes see; an agent
that does not see it says so before it is given a run, and no other is placed on its node.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from altgrad_cli.errors import UsageError
from altgrad_cli.files import write_whole
from altgrad_cli.sweeps.executors.messages import TOKEN, Greeting, Surroundings, Task, TaskReport
from altgrad_cli.sweeps.executors.ray_agent import Agent, versions
from altgrad_cli.sweeps.executors.ray_cluster import Cluster, Need

_LISTEN_SECONDS = 0.5
"""How long an agent waits for news of its run before it says that there is none."""
_ANSWER_SECONDS = 10.0
"""How long an agent without a run may take to answer."""
_PASSED_ON = ("ALTGRAD_", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MKL_NUM_THREADS")
"""Beginnings of the environment variables that workers are given; a key to anything is none of them."""


@dataclass(slots=True, eq=False)
class _Placed:
    """An agent: where it is (None: not known yet), its run, and what it was asked last."""

    actor: Any
    need: Need
    node: Greeting | None = None
    task: Task | None = None
    answer: Any = None
    stopping: bool = False


class RayExecutor:
    """Up to ``jobs`` runs at a time, or as many as there is room for, on the cluster.

    Args:
        folder: the sweep's folder.
        like: a task that says what the runs of this sweep take.
        jobs: runs at a time; more than there is room for wait for it, and let a cluster that grows do so.
    """

    def __init__(self, cluster: Cluster, folder: Path, like: Task, jobs: int | None) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._folder = folder.absolute()
        self._token = secrets.token_hex(16)
        self._jobs = jobs
        self._need = cluster.need_of(like)
        self._agents: list[_Placed] = []
        self._blind: dict[str, str] = {}
        """Nodes (by id) that can carry out no run, and why."""
        self._news: list[TaskReport] = []
        self._check_room()

    def free_slots(self) -> int:
        busy = sum(placed.task is not None for placed in self._agents)
        return max(0, (self._jobs or self._cluster.places(self._need, self._blind)) - busy)

    def start(self, task: Task) -> None:
        if not self._agents:
            write_whole(self._folder / TOKEN, self._token)
        self._place(replace(task, run_dir=str(Path(task.run_dir).absolute())))

    def wait(self, timeout: float) -> list[TaskReport]:
        asked = {placed.answer: placed for placed in self._agents if placed.answer is not None}
        if not self._news and asked:
            self._ray.wait(list(asked), timeout=timeout)
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ((), ())
        for answer in ready:
            self._hear(asked[answer])
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        for placed in [each for each in self._agents if each.task is not None]:
            if placed.node is None:  # it has begun nothing
                self._end(placed, "stopped")
                self._dismiss(placed)
            else:
                placed.stopping = True
                placed.actor.stop.remote()

    def close(self) -> None:
        closing = [placed.actor.close.remote() for placed in self._agents if placed.node is not None]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_ANSWER_SECONDS)
        for placed in list(self._agents):
            self._dismiss(placed)
        (self._folder / TOKEN).unlink(missing_ok=True)
        self._cluster.close()

    def _check_room(self) -> None:
        """A run that no node can take would wait for ever; who names ``jobs`` asks the cluster to grow."""
        if self._jobs or self._cluster.places(self._need, self._blind):
            return
        if self._blind:
            raise UsageError(
                f"no node of the cluster can carry out a run: {next(iter(self._blind.values()))}",
                where="--executor",
                allowed="a folder on storage that every node sees under the same path",
                hint="name one with --out, or mount it on the nodes",
            )
        raise UsageError(
            f"a run takes {self._need}, and no node of the cluster has so many",
            where="runtime.threads, runtime.device",
            hint="a cluster that grows when it is asked to is asked with --jobs",
        )

    def _place(self, task: Task) -> None:
        """Give ``task`` to an agent that has none, or to a new one."""
        need = self._cluster.need_of(task)
        idle = [placed for placed in self._agents if placed.task is None]
        for placed in idle:
            if placed.need == need and self._answers(placed):
                self._give(placed, task)
                return
            self._dismiss(placed)  # it would keep the room that the new one needs
        options: dict[str, object] = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_restarts": 0}
        if self._blind:
            options["label_selector"] = {"ray.io/node-id": f"!in({', '.join(self._blind)})"}
        surroundings = Surroundings(
            folder=str(self._folder),
            token=self._token,
            working_dir=self._cluster.working_dir(),
            environment={
                **{name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)},
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            },
        )
        actor = self._ray.remote(Agent).options(**options).remote(surroundings)
        self._agents.append(_Placed(actor, need, task=task, answer=actor.greet.remote()))

    def _answers(self, placed: _Placed) -> bool:
        """Whether an agent that has no run is still there: its node may be gone."""
        try:
            self._ray.get(placed.actor.greet.remote(), timeout=_ANSWER_SECONDS)
        except self._ray.exceptions.RayError:
            return False
        return True

    def _give(self, placed: _Placed, task: Task) -> None:
        placed.task = task
        placed.actor.start.remote(task)
        placed.answer = placed.actor.wait.remote(_LISTEN_SECONDS)

    def _hear(self, placed: _Placed) -> None:
        """Take in an answer of an agent, and ask it for the next."""
        if placed not in self._agents or placed.task is None:
            return
        errors = self._ray.exceptions
        try:
            answer: Greeting | list[TaskReport] = self._ray.get(placed.answer)
        except errors.ActorUnavailableError:  # it may answer again; if not, that is said as well
            time.sleep(0.1)
            placed.answer = placed.actor.wait.remote(_LISTEN_SECONDS)
            return
        except errors.RayError as error:
            self._lost(placed, error)
            return
        if isinstance(answer, Greeting):
            self._greeted(placed, answer)
            return
        self._news += answer
        if any(report.is_last for report in answer):
            placed.task, placed.answer = None, None
        else:
            placed.answer = placed.actor.wait.remote(_LISTEN_SECONDS)

    def _greeted(self, placed: _Placed, greeting: Greeting) -> None:
        task = placed.task
        assert task is not None
        placed.node = greeting
        if greeting.problem is None:
            here = versions()
            other = [f"{k} {v}, here {here[k]}" for k, v in greeting.versions.items() if v != here[k]]
            if other:
                self._warn(task, f"on {greeting.node}: {'; '.join(other)}: bits may differ")
            self._give(placed, task)
            return
        self._dismiss(placed)
        if greeting.node_id not in self._blind:
            self._blind[greeting.node_id] = f"{greeting.node}: {greeting.problem}"
            self._warn(task, f"no run goes to {self._blind[greeting.node_id]}")
        self._check_room()
        self._place(task)

    def _lost(self, placed: _Placed, error: Exception) -> None:
        """The agent is gone, or its node is."""
        words = [line.strip() for line in str(error).splitlines() if line.strip()]
        never_began = placed.node is None and not any(other.node for other in self._agents)
        self._dismiss(placed)
        if never_began and isinstance(error, self._ray.exceptions.ActorDiedError) and "Error" in words[-1]:
            raise UsageError(
                f"a worker of the cluster could not begin: {words[-1]}",
                where="--executor",
                hint="install the same altgrad on its nodes, with the same Python and Ray",
            )
        where = f" on {placed.node.node}" if placed.node else ""
        self._end(placed, "died", f"the worker{where} is gone: {words[0] if words else error}")

    def _end(self, placed: _Placed, kind: Any, message: str = "") -> None:
        assert placed.task is not None
        self._news.append(TaskReport(name=placed.task.name, kind=kind, message=message))
        placed.task, placed.answer = None, None

    def _warn(self, task: Task, message: str) -> None:
        self._news.append(TaskReport(name=task.name, kind="warning", message=message))

    def _dismiss(self, placed: _Placed) -> None:
        """End an agent; a run of its own would notice, and end as well."""
        if placed in self._agents:
            self._agents.remove(placed)
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(placed.actor)
