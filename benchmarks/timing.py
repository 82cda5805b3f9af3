"""Interleaved timing: every contestant once a round, so that a slow minute of the machine hits them all."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The seconds of one contestant, one number a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, baseline: Measured) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the ratio to ``baseline``, taken round by round."""
        rounds = min(len(self.seconds), len(baseline.seconds))
        ratios = sorted(a / b for a, b in zip(self.seconds[:rounds], baseline.seconds[:rounds], strict=True))
        quartile = (rounds - 1) / 4
        return ratios[round(quartile)], statistics.median(ratios), ratios[round(3 * quartile)]


def interleave(
    contestants: Mapping[str, Call], *, rounds: int, seconds_each: float = float("inf")
) -> dict[str, Measured]:
    """Time every contestant in ``rounds`` rounds, after one untimed call each.

    The order changes from round to round (seeded), so that nobody always finds the caches as the same
    neighbour left them. One that needs more than ``seconds_each`` for all its calls drops out once it has
    used that much, but not before its third round.
    """
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order, shuffled = list(contestants), random.Random(1)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            taken, call = seconds[name], contestants[name]
            if len(taken) >= 3 and sum(taken) > seconds_each:
                continue
            # A fast call is repeated: the clock and the loop must not be what is measured.
            repeats = 1 if not taken or taken[-1] > 2e-3 else max(1, int(2e-3 / taken[-1]))
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            taken.append((time.perf_counter() - start) / repeats)
    return {name: Measured(seconds=tuple(taken)) for name, taken in seconds.items()}
