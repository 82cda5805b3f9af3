"""A bench that trains nothing: it says of every run what a test planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from altgrad_cli.claims.bench import Bench, BenchRun, Overrides
from altgrad_cli.training.events import Number, RunStarted, StepCompleted

Plant = Callable[[Overrides], float]


def started(predicted: float) -> RunStarted:
    return RunStarted(
        step=0,
        config={},
        layers=(),
        precision=(),
        init_hash="",
        parameters=0,
        corpus={},
        predicted_stall={"first_step": predicted},
        environment={},
        injections=(),
    )


class PlantedBench(Bench):
    """The loss of each arm, its lost steps of ten, and the metrics of all its steps, as planted."""

    def __init__(
        self,
        loss: Plant = lambda arm: 2.0,
        lost: Callable[[Overrides], int] = lambda arm: 0,
        metrics: Callable[[Overrides], Mapping[str, Number]] = lambda arm: {},
        predicted: float = 0.5,
        seeds: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__(seeds)
        self._plan = loss, lost, metrics, predicted

    def _make(self, seed: int, arm: Overrides) -> BenchRun:
        loss, lost, metrics, predicted = self._plan
        steps = [
            StepCompleted(step=n, metrics=metrics(arm), layers={}, committed=n > lost(arm), format="")
            for n in range(1, 11)
        ]
        # a thousandth of spread, the same in every arm: it cancels in pairs
        return BenchRun(started(predicted), tuple(steps), loss(arm) + seed / 1000, len(steps))
