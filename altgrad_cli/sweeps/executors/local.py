"""Carries out arms in parallel: worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from altgrad_cli.sweeps.executors.messages import Stop, Task, TaskReport
from altgrad_cli.sweeps.executors.worker import work


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None


class LocalExecutor:
    """``jobs`` worker processes on this machine, started when needed and used again.

    Workers are spawned, not forked: torch's threads and a CUDA context survive no fork. A worker that is
    killed takes its task with it, nothing else.
    """

    def __init__(self, jobs: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._jobs = jobs
        self._workers: list[_Worker] = []

    def free_slots(self) -> int:
        return self._jobs - sum(worker.task is not None for worker in self._workers)

    def start(self, task: Task) -> None:
        worker = next((worker for worker in self._workers if worker.task is None), None)
        if worker is None or not worker.process.is_alive():
            worker = self._spawn()
        worker.task = task
        # A worker that died at this moment is found by ``wait``, which reports its task as died.
        with contextlib.suppress(OSError):
            worker.connection.send(task)

    def wait(self, timeout: float) -> list[TaskReport]:
        connections = {worker.connection: worker for worker in self._workers}
        reports: list[TaskReport] = []
        for ready in wait(list(connections), timeout) if connections else ():
            worker = connections[ready]  # type: ignore[index]
            try:
                while worker.connection.poll():
                    reports.append(self._received(worker, worker.connection.recv()))
            except (EOFError, OSError):
                reports += self._buried(worker)
        return reports

    def stop(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(Stop())

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self._workers = []

    def _spawn(self) -> _Worker:
        self._workers = [
            worker for worker in self._workers if worker.task is not None or worker.process.is_alive()
        ]
        here, there = self._context.Pipe()
        process = self._context.Process(target=work, args=(there,), name="altgrad-worker")
        process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _received(self, worker: _Worker, report: TaskReport) -> TaskReport:
        if report.is_last:
            worker.task = None
        return report

    def _buried(self, worker: _Worker) -> list[TaskReport]:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        code = worker.process.exitcode
        worker.process.close()
        if worker.task is None:
            return []
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return [TaskReport(name=worker.task.name, kind="died", message=f"the worker process {how}")]
