"""A bench that trains nothing: it says of every run what a test planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from altgrad_cli.claims.bench import Bench, BenchRun, Overrides, RunKey
from altgrad_cli.claims.making import Made

Plant = Callable[[Overrides], float]


class PlantedBench(Bench):
    """The loss of each arm, its lost updates, the metrics of its steps and its gains, as planted."""

    def __init__(
        self,
        loss: Plant = lambda arm: 2.0,
        lost: Plant = lambda arm: 0.0,
        metrics: Callable[[Overrides], Mapping[str, float]] = lambda arm: {},
        predicted: float = 0.5,
        gains: Sequence[float] = (0.93,) * 64,
        seeds: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__(seeds)
        self._plan = loss, lost, metrics, predicted, tuple(gains)
        self.asked: set[RunKey] = set()

    def run(self, seed: int, arm: Overrides) -> BenchRun:
        loss, lost, metrics, predicted, gains = self._plan
        self.asked.add((seed, arm))
        return BenchRun(
            validation_loss=loss(arm)
            + seed / 1000,  # a spread that is the same in every arm cancels in pairs
            lost_updates=lost(arm),
            metrics={name: (value,) * 10 for name, value in metrics(arm).items()},
            predicted_stall=predicted,
            gains=(gains,),
        )

    def made(self, wanted: Sequence[RunKey]) -> Iterator[Made]:
        """``wanted`` one after the other, as ``make_runs`` gives them."""
        for seed, arm in wanted:
            yield (seed, arm), self.run(seed, arm)
