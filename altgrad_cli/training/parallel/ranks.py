"""Which rows of a batch are whose, and how what the ranks hold becomes one.

A rank is one of the processes that torchrun starts for a run. Every rank draws the whole batch and takes its
rows; what all must decide alike (loss, gradient, counts) is put together here and is then the same on every
rank, bit for bit. Sums are taken in the order of the ranks, not in that of a backend's own all-reduce: so
many ranks always give the same bits, and so would one process that takes their shares one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from altgrad_cli.errors import AltgradError
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.share import Share


class SharedError(AltgradError):
    """What stopped one rank stops all, and every rank knows it: rank 0 says it."""


class RankLost(AltgradError):
    """Another rank of the run has gone while this one waited for it: the first that notices says it."""


@contextmanager
def _waiting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError and its children among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RankLost(
            "another rank of this run has gone or does not answer, and with it the run ends",
            where=reason[:200],
            hint="--resume goes on from the last checkpoint, with any number of ranks",
        ) from error


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of its run; by default it is the only one."""

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.count == 1

    @property
    def speaks(self) -> bool:
        """Whether this is the rank that writes and talks."""
        return self.rank == 0

    @property
    def share(self) -> Share | None:
        """What a pass must know of the rest of its batch; None: there is none."""
        return None if self.alone else Share(self.rank, self.count, self.largest)

    def rows(self, batch: Batch) -> Batch:
        """This rank's rows of a batch."""
        if self.alone:
            return batch
        size = len(batch.x) // self.count
        mine = slice(self.rank * size, (self.rank + 1) * size)
        return replace(batch, x=batch.x[mine], y=batch.y[mine], offsets=batch.offsets[mine])

    def turns(self, count: int) -> range:
        """Which of ``count`` things this rank does: every so manieth, as many as the others do."""
        return range(self.rank, -(-count // self.count) * self.count, self.count)

    def gathered(self, x: Tensor) -> list[Tensor]:
        """``x`` of every rank, by rank; all of one shape and type."""
        if self.alone:
            return [x]
        sent = x.detach().contiguous()
        received = [torch.empty_like(sent) for _ in range(self.count)]
        with _waiting():
            dist.all_gather(received, sent)
        return received

    def total(self, x: Tensor) -> Tensor:
        """The sum of a flat tensor over the ranks, in place; added up in the order of the ranks."""
        if self.alone:
            return x
        size = -(-x.numel() // self.count)
        sent = torch.zeros(size * self.count, dtype=x.dtype, device=x.device)
        sent[: x.numel()] = x
        received = torch.empty_like(sent)
        with _waiting():
            dist.all_to_all_single(received, sent)  # each rank gets one part of every rank's
            part = reduce(torch.add, received.view(self.count, size).unbind())
            dist.all_gather(list(sent.view(self.count, size).unbind()), part)
        return x.copy_(sent[: x.numel()])

    def largest(self, x: Tensor) -> Tensor:
        """The largest of every entry over the ranks."""
        return torch.stack(self.gathered(x)).amax(0)

    def first(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of rank 0."""
        return {name: self.gathered(tensor)[0] for name, tensor in tensors.items()}

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return flag if self.alone else bool(self.largest(torch.tensor(int(flag))))

    def objects(self, value: Any) -> list[Any]:
        """A plain value of every rank, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.count
        with _waiting():
            dist.all_gather_object(values, value)
        return values

    def agreed(self, call: Callable[[], Any]) -> Any:
        """What ``call`` gives here, once it has failed on no rank.

        Raises:
            AltgradError: it did somewhere; the same on every rank, for the first one to say.
        """
        if self.alone:
            return call()
        value, error = None, None
        try:
            value = call()
        except AltgradError as failure:
            error = failure
        failed = {rank: each for rank, each in enumerate(self.objects(_parts(error))) if each is not None}
        if not failed:
            return value
        rank, (code, parts) = next(iter(failed.items()))
        if rank:
            parts["where"] = ", ".join(filter(None, (parts["where"], f"rank {rank}")))
        shared = SharedError(**parts)
        shared.exit_code = code
        raise shared from error


def _parts(error: AltgradError | None) -> tuple[int, dict[str, Any]] | None:
    if error is None:
        return None
    return error.exit_code, {name: getattr(error, name) for name in ("message", "where", "allowed", "hint")}


ALONE = Ranks()
"""A process that trains by itself."""
