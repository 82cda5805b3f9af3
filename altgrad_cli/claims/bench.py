"""The bench: small runs of one setting, each made once, however many claims ask for it.

The setting was chosen by its fp32 and frozen runs alone. Of 3e-3, 6e-3 and 1e-2 the first was best for fp32
and left the frozen blocks farthest behind. One layer for 500 steps costs what two cost for 300, at whose end
the loss still hung on when each seed had learnt to look back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.config.loading import load_config
from altgrad_cli.metrics.thresholds import ENDS_APART_FROM
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Evaluated, Number, RunStarted, StepCompleted

Overrides = tuple[str, ...]
"""What an arm sets, as on the command line."""

TEXT = "embedded legal English, bytes"
RATE = 3e-3
SEEDS = (42, 43, 44)
SETTING: Overrides = (
    "model.n_layer=1",
    "model.n_head=2",
    "model.n_embd=64",
    "model.block_size=64",
    "batch_size=8",
    "max_steps=500",
    f"learning_rate={RATE}",
    "optimizer.warmup_steps=20",
    "optimizer.schedule=cosine",
    "precision.head_format=fp32",
    "runtime.evaluation_interval=500",
    "runtime.checkpoint_interval=0",
    "monitors.enabled=false",
    "use_shadow=false",
    "log_rank=false",
    "diagnostic_interval=10",
    "nan_policy=patience",
)
"""One layer of 64, 500 steps of 8 x 64 bytes; the head in float32, so that only the blocks differ."""

SETTING_WORDS = (
    f"Trained was a GPT of one layer of 64, 500 steps of 8 x 64 bytes, AdamW at {RATE:g} with a cosine, on"
    " the embedded legal English: one text and, unless said, one rate. What holds here may not hold for a"
    " large model."
)

FP32: Overrides = ("precision.regime=fp32",)
FROZEN: Overrides = ("precision.regime=frozen",)

TRACKS = 0.05
"""Nats within which a run keeps up with the one that it is held against, and beyond which it trails."""

ENDS_APART = Condition(
    "loss of the run with frozen blocks less that of fp32", "above", ENDS_APART_FROM, "nats", premise=True
)
"""What every claim about training rests on: that the blocks, where the rounding is, matter for the loss."""


@dataclass(frozen=True, slots=True)
class BenchRun:
    """What a claim may read of a run."""

    started: RunStarted
    steps: tuple[StepCompleted, ...]
    validation_loss: float
    """The last one, of the deployed model; inf for a run that is not finite any more."""
    planned_steps: int

    @property
    def lost_updates(self) -> float:
        """Share of the planned updates that never happened: not finite, or after the run had to stop."""
        return 1 - sum(step.committed for step in self.steps) / self.planned_steps

    def metric(self, name: str) -> tuple[float, ...]:
        """The values of a metric, of the steps that have one."""
        return tuple(value for step in self.steps if (value := _number(step.metrics.get(name))) is not None)


def _number(value: Number | str) -> float | None:
    return None if value is None else float(value)


class Bench:
    """Makes runs, and remembers them.

    Args:
        seeds: of every arm.
        setting: overrides of the config ``base`` that all runs share; tests give smaller ones.
        listen: hears of every run before it starts.
    """

    def __init__(
        self,
        seeds: Sequence[int] = SEEDS,
        setting: Overrides = SETTING,
        listen: Callable[[str], object] = lambda words: None,
    ) -> None:
        self.seeds = tuple(seeds)
        self._setting, self._listen = setting, listen
        self._runs: dict[tuple[int, Overrides], BenchRun] = {}

    @property
    def runs(self) -> int:
        """How many runs were made."""
        return len(self._runs)

    def run(self, seed: int, arm: Overrides) -> BenchRun:
        """The run of ``arm`` with ``seed``, made now if it has not been."""
        if (seed, arm) not in self._runs:
            self._listen(f"run {self.runs + 1}: seed {seed}, {' '.join(arm)}")
            self._runs[seed, arm] = self._make(seed, arm)
        return self._runs[seed, arm]

    def _make(self, seed: int, arm: Overrides) -> BenchRun:
        config = load_config("base", [*self._setting, *arm, f"seed={seed}"])
        started, steps, loss = None, [], math.inf
        for event in train(config):
            if isinstance(event, RunStarted):
                started = event
            elif isinstance(event, StepCompleted):
                steps.append(event)
            elif isinstance(event, Evaluated):
                value = _number(event.validation_loss)
                loss = value if value is not None and math.isfinite(value) else math.inf
        assert started is not None, "a run says first that it has started"
        return BenchRun(started, tuple(steps), loss, config.max_steps)

    def losses(self, arm: Overrides) -> tuple[float, ...]:
        """The last validation loss of every seed."""
        return tuple(self.run(seed, arm).validation_loss for seed in self.seeds)

    def gap(self, arm: Overrides, other: Overrides = FP32) -> SeedValues:
        """How far the loss of ``arm`` lies above that of ``other``, seed by seed, in nats."""
        pairs = zip(self.losses(arm), self.losses(other), strict=True)
        return SeedValues(tuple(first - second for first, second in pairs))

    def ends_apart(self) -> SeedValues:
        """The sample of ``ENDS_APART``."""
        return self.gap(FROZEN)

    def measured(
        self, samples: Sequence[SeedValues], arms: Mapping[str, Overrides], rates: Sequence[float] = (RATE,)
    ) -> Measurement:
        """What was measured, with the losses of the arms it was measured on, by their names."""
        losses = {name: self.losses(arm) for name, arm in arms.items()}
        return Measurement(tuple(samples), self.seeds, (TEXT,), tuple(rates), losses)


def mean_of_late(values: Sequence[float]) -> float:
    """The mean of the second half of ``values``, by when a run has left its beginning; NaN without any."""
    late = values[len(values) // 2 :]
    return fmean(late) if late else math.nan


def stored(format: str, *more: str) -> Overrides:
    """The arm with W, A, G and the weights themselves in ``format``, without a float32 master."""
    return ("precision.regime=uniform", f"fp8_format={format}", *more)


def on_masters(format: str, *more: str) -> Overrides:
    """The arm with W, A and G in ``format``, the weights in float32."""
    return ("precision.regime=standard", f"fp8_format={format}", *more)


STOCHASTIC = "precision.rounding=stochastic"
"""The update is rounded stochastically."""
STOCHASTIC_ALL = "precision.rounding=stochastic_all"
COMPENSATED = ("optimizer.rule=compensated", "optimizer.residual=bf16")
