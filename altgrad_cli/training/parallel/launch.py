"""Joining the processes of a run that torchrun has started, and one voice for what stops them.

No torch is needed to know whether there is anything to join.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from altgrad_cli.errors import AltgradError, UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.training.parallel.ranks import Ranks

Part: TypeAlias = "tuple[TrainConfig, Path | None]"
"""What a rank trains, and the checkpoint that it goes on from."""
TIME_OUT_MINUTES = 10
"""How long a rank waits for another: a capture of the whole batch or a large checkpoint may take minutes."""
_GRACE_SECONDS = 3
"""torchrun ends all ranks as soon as one has failed: the one that speaks must be the first."""


def launched() -> int:
    """How many ranks torchrun has started of this run; 1 where it has not."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def refuse_ranks(what: str, hint: str) -> None:
    """Refuse ``what`` where torchrun has started several ranks, each of which would do all of it.

    Raises:
        UsageError: on the first rank; the others end silently.
    """
    if launched() == 1:
        return
    error = UsageError(
        f"torchrun shares one run among its processes, and {what} is many runs",
        where="torchrun",
        allowed="altgrad train, or one process",
        hint=hint,
    )
    if os.environ.get("RANK") == "0":
        raise error
    time.sleep(_GRACE_SECONDS)
    raise SystemExit(error.exit_code)


@contextmanager
def _joined() -> Iterator[tuple[Ranks, Store]]:
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from altgrad_cli.training.parallel.ranks import Ranks

    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % cards)
    store, rank, count = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cards else "gloo",
        store=PrefixStore("run", store),
        rank=rank,
        world_size=count,
        timeout=timedelta(minutes=TIME_OUT_MINUTES),
    )
    yield Ranks(rank, count), PrefixStore("altgrad", store)
    dist.destroy_process_group()  # in order only: after a failure the others cannot be waited for


class Lead:
    """What the first rank does with the others: it gives them their part, once."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.assigned = False

    def assign(self, config: TrainConfig, checkpoint: Path | None) -> None:
        """Let the others train ``config`` from ``checkpoint``, which they read themselves."""
        self._tell((config, checkpoint))

    def dismiss(self) -> None:
        """Let the others end where they were given no part."""
        if not self.assigned:
            self._tell(None)

    def _tell(self, part: Part | None) -> None:
        self.assigned = True
        self.ranks.objects(part)


def on_every_rank(
    lead: Callable[[Lead], int], follow: Callable[[Ranks, TrainConfig, Path | None], None]
) -> int:
    """Call ``lead`` on the first rank, whose exit code it is, and ``follow`` on the others with their part.

    Raises:
        AltgradError: what this rank has to say. One that another rank says ends the process silently.
    """
    from altgrad_cli.training.parallel.ranks import RankLost, SharedError

    with _joined() as (ranks, store):
        try:
            if ranks.speaks:
                first = Lead(ranks)
                try:
                    return lead(first)
                finally:
                    first.dismiss()
            part: Part | None = ranks.objects(None)[0]
            if part is not None:
                follow(ranks, *part)
            return 0
        except (RankLost, SharedError) as error:
            if _speaks(error, ranks, store):
                raise
            time.sleep(_GRACE_SECONDS)
            raise SystemExit(error.exit_code) from None


def _speaks(error: AltgradError, ranks: Ranks, store: Store) -> bool:
    from altgrad_cli.training.parallel.ranks import RankLost

    if not isinstance(error, RankLost):
        return ranks.speaks
    try:
        return store.add("lost", 1) == 1
    except RuntimeError:  # the store has gone as well
        return ranks.speaks
