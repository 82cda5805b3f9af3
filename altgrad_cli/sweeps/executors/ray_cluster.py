"""Joining a Ray cluster, or starting Ray on this machine for the length of a sweep."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from altgrad_cli.errors import UsageError
from altgrad_cli.files import reason_of
from altgrad_cli.sweeps.executors.messages import Task

_START_SECONDS = 120.0
"""How long Ray may take to start, or to let this process join; it takes seconds."""
_REACH_SECONDS = 10.0
"""How long a machine may take to answer at all; Ray itself would go on asking one that is not there."""
_ALLOWED = "ray, ray:auto or ray:HOST:PORT"
_OBJECT_STORE_BYTES = 80 << 20
"""About the least that Ray takes: what a sweep and its workers say to each other is short."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a run takes of a node."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPU" if self.gpus else "")


class Cluster:
    """A connection to Ray, as the one driver that this process is; ``close`` it.

    Args:
        address: ``HOST:PORT`` of a cluster, or ``auto`` for the one that this machine is part of. None: what
            RAY_ADDRESS names, as within ``ray job submit``; without that, Ray is started here.
        cpus: how many runs' worth of cores Ray may count on where it is started here.

    Raises:
        UsageError: Ray is not installed, did not start, or the cluster does not answer or let this process
            join.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UsageError(
                "Ray is not installed",
                where="--executor",
                hint="pip install 'altgrad[ray]', or leave --executor out",
            ) from None
        self.ray: Any = ray
        if ray.is_initialized():
            raise UsageError("this process is part of a Ray cluster already", where="--executor")
        given = address or os.environ.get("RAY_ADDRESS")
        if given is not None:
            _reach(given)
        logging.getLogger("ray").setLevel(logging.ERROR)
        options = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
        if given is None:
            options |= {"num_cpus": cpus, "include_dashboard": False}
            options |= {"object_store_memory": _OBJECT_STORE_BYTES}
        self._done = threading.Event()
        try:
            self._connect(given or "local", options)
        except Exception as error:
            what = f"joining the Ray cluster at {given}" if given else "starting Ray on this machine"
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"{what} failed: {words[0]}",
                where="--executor",
                allowed=_ALLOWED,
                hint="`ray status --address HOST:PORT` says whether a cluster answers" if given else None,
            ) from error

    def _connect(self, address: str, options: Mapping[str, object]) -> None:
        """Connect in a thread that lives as long as the connection.

        A thread can be waited for no longer than so long, and Ray leaves the handling of SIGTERM as it is in
        one; but the system ends the processes that Ray starts together with the thread that started them.
        """
        outcome: SimpleQueue[Exception | None] = SimpleQueue()

        def live() -> None:
            try:
                # It prints every loss of a worker to stdout, which is for data, and no setting keeps it from
                # that; the sweep tells of its losses itself.
                self.ray._private.worker.print_to_stdstream = _say_nothing
                self.ray.init(address, **options)
            except Exception as error:  # noqa: BLE001 (handed over, not swallowed)
                outcome.put(error)
                return
            outcome.put(None)
            self._done.wait()

        threading.Thread(target=live, daemon=True).start()
        try:
            error = outcome.get(timeout=_START_SECONDS)
        except Empty:
            raise TimeoutError(f"no answer for {_START_SECONDS:g} seconds") from None
        if error is not None:
            raise error

    def need_of(self, task: Task) -> Need:
        """What ``task`` takes; ``auto`` is a GPU where the cluster has any, so that all runs are alike."""
        on_gpu = task.device == "cuda" or (
            task.device == "auto" and self.ray.cluster_resources().get("GPU", 0) > 0
        )
        return Need(cpus=task.threads, gpus=int(on_gpu))

    def places(self, need: Need, without: Collection[str] = ()) -> int:
        """How many runs of this need the nodes (but those of the ids ``without``) hold at a time."""
        return sum(
            min(
                int(node["Resources"].get(name, 0) // amount)
                for name, amount in (("CPU", need.cpus), ("GPU", need.gpus))
                if amount
            )
            for node in self.ray.nodes()
            if node["Alive"] and node["NodeID"] not in without
        )

    def working_dir(self) -> str | None:
        """Where the workers' relative paths are to begin; None where Ray has put them there itself."""
        packaged = self.ray.get_runtime_context().runtime_env.get("working_dir")
        return None if packaged else str(Path.cwd())

    def close(self) -> None:
        """Leave the cluster; what was started here ends."""
        self.ray.shutdown()
        self._done.set()


def _reach(address: str) -> None:
    """See that something answers at ``HOST:PORT``; what is no such address is left to Ray."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"no Ray cluster answers at {address}: {reason}",
            where="--executor",
            allowed=_ALLOWED,
            hint=f"`ray start --head --port {port}` on that machine starts one; `ray` alone needs none",
        ) from error


def _say_nothing(*message: object, **how: object) -> None:
    """In place of what Ray prints with."""
