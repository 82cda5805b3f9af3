"""Which executor a command line names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.sweeps.executors.local import LocalExecutor
from altgrad_cli.sweeps.executors.messages import Task
from altgrad_cli.sweeps.executors.protocol import Executor

_ALLOWED = "local, ray (on this machine), ray:auto or ray:HOST:PORT (a cluster)"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where the runs of a sweep are carried out: on this machine, or by Ray."""

    by_ray: bool
    address: str | None = None
    """Of a cluster; None where none is named."""


def parse_workplace(text: str) -> Workplace:
    """``local``, ``ray`` or ``ray:ADDRESS``; UsageError for all else."""
    word, colon, address = text.partition(":")
    if address.startswith(("//", "ray://")):
        raise UsageError(
            f"{text} is the address of a client from outside, who does not see the cluster's storage",
            where="--executor",
            allowed=_ALLOWED,
            hint="start the sweep on a machine of the cluster, or with `ray job submit`",
        )
    if word not in ("local", "ray") or (colon and (word == "local" or not address)):
        raise UsageError(f"--executor = {text!r} is not known", where="--executor", allowed=_ALLOWED)
    return Workplace(word == "ray", address or None)


def open_executor(
    place: Workplace, folder: Path, base: TrainConfig, *, jobs: int | None, cores: int
) -> Executor:
    """The executor at ``place`` for a sweep in ``folder``; it is to be closed.

    Args:
        base: says what a run of the sweep takes of a machine.
        jobs: runs at a time; None: as many as there is room for.
        cores: those of this machine.

    Raises:
        UsageError: it cannot be had.
    """
    if not place.by_ray:
        return LocalExecutor(jobs or cores)
    from altgrad_cli.sweeps.executors.ray_cluster import Cluster
    from altgrad_cli.sweeps.executors.ray_executor import RayExecutor

    like = Task(name="", run_dir="", resume=False, threads=base.runtime.threads, device=base.runtime.device)
    cluster = Cluster(place.address, cpus=max(cores, (jobs or 1) * base.runtime.threads))
    try:
        return RayExecutor(cluster, folder, like, jobs)
    except UsageError:
        cluster.close()
        raise
