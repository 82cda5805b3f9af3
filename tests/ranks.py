"""Several ranks for a test: forked from it, joined over gloo, each calling one function."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from altgrad_cli.training.parallel.ranks import Ranks

_FORK = multiprocessing.get_context("fork")
_SECONDS = 60


def _work(rank: int, count: int, meeting: Path, call: Callable[[Ranks], Any], answer: Connection) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=_SECONDS),
        )
        answer.send_bytes(pickle.dumps((True, call(Ranks(rank, count)))))  # by value, tensors too
    except BaseException:  # noqa: BLE001  told in the test's own process
        answer.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        answer.close()


def on_ranks(count: int, tmp_path: Path, call: Callable[[Ranks], Any]) -> list[Any]:
    """What ``call`` gives on each of ``count`` ranks, by rank; it may be a closure, its value is pickled."""
    meeting = tmp_path / f"meeting-{len(list(tmp_path.iterdir()))}"
    ends, processes = [], []
    for rank in range(count):
        ours, theirs = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_work, args=(rank, count, meeting, call, theirs), daemon=True)
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    answers = []
    try:
        for rank, end in enumerate(ends):
            assert end.poll(_SECONDS), f"rank {rank} gave no answer"
            fine, value = pickle.loads(end.recv_bytes())
            assert fine, f"rank {rank}:\n{value}"
            answers.append(value)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
    return answers
