"""Learning rates: which to try next and which was best, from what has been tried and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import fmean
from typing import Literal

from altgrad_cli.config.limits import FLOAT32_RANGE
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.notation import decimals
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.verdicts import JudgedRun, tuning_loss

Edge = Literal["lowest", "highest"]
MOST_WIDENINGS = 3
"""Half decades that a grid grows by on a side, at most."""


@dataclass(frozen=True, slots=True)
class RateGrid:
    """The rates that are tried at first, and what they may be widened by."""

    start: tuple[float, ...]
    """Ascending, at least one."""
    below: tuple[float, ...]
    """The half decades below ``start``, the nearest first."""
    above: tuple[float, ...]
    """Those above it."""

    @property
    def widest(self) -> tuple[float, ...]:
        """As many rates as a search can add: several are widened on one side, one also once on the other."""
        return (*self.above, *self.below[: len(self.start) == 1])


def grid_around(rate: float) -> RateGrid:
    """Half a decade below ``rate``, itself, and half a decade above it."""
    start = (half_decades(rate, -1), rate, half_decades(rate, 1))
    steps = range(2, MOST_WIDENINGS + 2)
    return _grid(start, [half_decades(rate, -n) for n in steps], [half_decades(rate, n) for n in steps])


def grid_of(rates: Sequence[float]) -> RateGrid:
    """``rates``, widened from their ends on."""
    start, steps = tuple(sorted(rates)), range(1, MOST_WIDENINGS + 1)
    below = [half_decades(start[0], -n) for n in steps]
    return _grid(start, below, [half_decades(start[-1], n) for n in steps])


def _grid(start: tuple[float, ...], below: Sequence[float], above: Sequence[float]) -> RateGrid:
    low, high = FLOAT32_RANGE  # in which a rate is used
    return RateGrid(start, tuple(r for r in below if r >= low), tuple(r for r in above if r <= high))


def half_decades(rate: float, number: int) -> float:
    """``rate`` times 10^(number/2), as a decimal of two digits."""
    return float(f"{rate * 10 ** (number / 2):.1e}")


def rate_word(rate: float) -> str:
    """``6e-4``: the shortest decimal of a rate."""
    return f"{Decimal(repr(rate)).normalize():e}"


@dataclass(frozen=True, slots=True)
class Search:
    """Where the search for the best rate stands."""

    rates: tuple[float, ...]
    """All that are to be tried, ascending; those that have been are among them."""
    decided: bool
    """Every one has been tried, and the grid is as wide as it becomes."""
    best: float | None = None
    """The rate of the lowest loss of those tried, of equals the smaller; None where no loss is finite."""
    edge: Edge | None = None
    """Which rate of a search that is decided the best one is, where a still better one may lie beyond."""


def search(grid: RateGrid, losses: Mapping[float, float]) -> Search:
    """What ``losses`` (rate -> validation loss) leave to be tried, and the best of them.

    NaN counts as infinite. While the best rate is at an edge of what was tried, another half decade is added
    there, ``MOST_WIDENINGS`` times at most. Where no loss is finite the best is looked for further down.
    """
    low = high = 0  # how far it is widened on each side
    while True:
        rates = (*reversed(grid.below[:low]), *grid.start, *grid.above[:high])
        tried = [(_or_infinite(losses[rate]), rate) for rate in rates if rate in losses]
        loss, rate = min(tried, default=(math.inf, 0.0))
        best = rate if math.isfinite(loss) else None
        if len(tried) < len(rates):
            return Search(rates, False, best)
        lowest, highest = rate == rates[0], rate == rates[-1] and best is not None
        lower, higher = lowest and low < len(grid.below), highest and high < len(grid.above)
        if not (lower or higher):
            edge: Edge | None = (
                None if best is None else "lowest" if lowest else "highest" if highest else None
            )
            return Search(rates, True, best, edge)
        low, high = low + lower, high + higher


def _or_infinite(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


OF_THE_GRID = "a learning rate of the grid"
BEYOND_IT = "half a decade beyond the best learning rate so far, which was at the edge of those tried"


def trial(arm: Arm, rate: float, reason: str) -> Arm:
    """The run that tries ``rate`` for ``arm``: on the first half of the validation split, not judged.

    Only its loss is asked for, so nothing is measured but what an intervention acts on.
    """
    config = arm.config
    data = replace(config.data, evaluate_on="tuning")
    monitors = replace(config.monitors, enabled=config.enable_emergency_shift)
    return replace(
        arm,
        name=f"tune-{without_seed(arm)}-{rate_word(rate)}{_seed_suffix(arm)}",
        kind="tuning",
        config=replace(config, learning_rate=rate, data=data, monitors=monitors, use_shadow=False),
        controls=None,
        reason=reason,
    )


def at_rate(arm: Arm, rate: float) -> Arm:
    """``arm`` at the rate that was chosen for it, on the half of the validation split that chose nothing."""
    data = replace(arm.config.data, evaluate_on="final")
    return replace(
        arm,
        config=replace(arm.config, learning_rate=rate, data=data),
        reason=f"{arm.reason}; at its best learning rate of those tried",
    )


def without_seed(arm: Arm) -> str:
    """The name that ``arm`` shares with the same arm of other seeds."""
    return arm.name.removesuffix(_seed_suffix(arm))


def _seed_suffix(arm: Arm) -> str:
    """``-seed43`` where the arm's name tells its seed, else nothing."""
    suffix = f"-seed{arm.config.seed}"
    return suffix if arm.name.endswith(suffix) else ""


@dataclass(frozen=True, slots=True)
class RatesTried:
    """What became of the learning rates of one arm."""

    arm: str
    """As the runs at its best rate are called, without their seed."""
    trials: Mapping[float, tuple[Arm, ...]]
    """Rate -> a trial a seed; ascending by rate."""
    losses: Mapping[float, float]
    """Rate -> mean validation loss of its trials, once all have ended; inf where one did not hold."""
    found: Search

    @property
    def first(self) -> Arm:
        """The trial of the lowest rate and the first seed."""
        return next(iter(self.trials.values()))[0]

    @property
    def widened(self) -> int:
        """By how many rates the grid has grown."""
        return sum(trials[0].reason == BEYOND_IT for trials in self.trials.values())

    @property
    def rates(self) -> str:
        """``6e-4, 1.9e-3``."""
        return ", ".join(map(rate_word, self.trials))

    @property
    def words(self) -> str:
        """``6e-4 2.127, 1.9e-3 1.882``: the rates with their losses, a dash where none is known yet."""
        return ", ".join(f"{rate_word(rate)} {decimals(self.losses.get(rate), 3)}" for rate in self.trials)

    def to_json(self) -> dict[str, object]:
        """Plain values; a loss is null where a trial of its rate has not ended."""
        return {
            "arm": self.arm,
            "rates": [
                {"learning_rate": rate, "seeds": len(trials), "loss": self.losses.get(rate)}
                for rate, trials in self.trials.items()
            ],
            "widened": self.widened,
            "best": self.found.best if self.found.decided else None,
            "edge": self.found.edge,
        }

    def __str__(self) -> str:
        if not self.found.decided:
            return f"{self.arm}: {len(self.losses)} of {len(self.trials)} learning rates tried"
        if self.found.best is None:
            return f"{self.arm}: every learning rate tried diverged, so there is no final run"
        widened = f" after the grid was widened by {self.widened}" if self.widened else ""
        edge = f", the {self.found.edge} tried: a better one may lie beyond" if self.found.edge else ""
        return f"{self.arm}: best at {rate_word(self.found.best)}{widened}{edge}"


def rates_tried(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> list[RatesTried]:
    """The trials among ``arms``, arm by arm; [] where nothing is tuned."""
    groups: dict[TrainConfig, list[Arm]] = {}
    for arm in arms:
        if arm.kind == "tuning":
            groups.setdefault(tried_for(arm), []).append(arm)
    return [_tried(group, findings) for group in groups.values()]


def tried_for(arm: Arm) -> TrainConfig:
    """What the trials of an arm and the runs at its best rate have in common; a trial measures less."""
    config = arm.config
    return replace(
        config,
        learning_rate=1.0,
        seed=0,
        data=replace(config.data, evaluate_on="validation"),
        monitors=replace(config.monitors, enabled=True),
        use_shadow=False,
    )


def _tried(group: list[Arm], findings: Mapping[str, JudgedRun]) -> RatesTried:
    trials = by_rate(group)
    losses = losses_of(trials, findings)
    rate, first = next((rate, arms[0]) for rate, arms in trials.items())
    folder, slash, name = without_seed(first).rpartition("/")
    name = name.removeprefix("tune-").removesuffix(f"-{rate_word(rate)}")
    found = search(RateGrid(tuple(trials), (), ()), losses)
    return RatesTried(f"{folder}{slash}{name}", trials, losses, found)


def by_rate(trials: Iterable[Arm]) -> dict[float, tuple[Arm, ...]]:
    """Rate -> its trials, a seed each; ascending by rate."""
    groups: dict[float, tuple[Arm, ...]] = {}
    for arm in sorted(trials, key=lambda arm: arm.config.learning_rate):
        groups[arm.config.learning_rate] = (*groups.get(arm.config.learning_rate, ()), arm)
    return groups


def losses_of(trials: Mapping[float, Sequence[Arm]], findings: Mapping[str, JudgedRun]) -> dict[float, float]:
    """Rate -> mean validation loss of its ``trials``, where all of them have ended.

    Every seed counts: a rate near the edge of stability that is the best of one seed may end another.
    """
    return {
        rate: fmean(tuning_loss(findings[arm.name].record) for arm in arms)
        for rate, arms in trials.items()
        if all(arm.name in findings for arm in arms)
    }
