"""The bench: small runs of one setting, each made once, however many claims read it.

The setting was chosen by its fp32 and frozen runs alone. Of 3e-3, 6e-3 and 1e-2 the first was best for fp32
and left the frozen blocks farthest behind. One layer for 500 steps costs what two cost for 300, at whose end
the loss still hung on when each seed had learnt to look back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.metrics.thresholds import ENDS_APART_FROM

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
ENDS = (FP32, FROZEN)
"""The arms of ``ENDS_APART``."""

TRACKS = 0.05
"""Nats within which a run keeps up with the one that it is held against, and beyond which it trails."""

ENDS_APART = Condition(
    "loss of the run with frozen blocks less that of fp32", "above", ENDS_APART_FROM, "nats", premise=True
)
"""What every claim about training rests on: that the blocks, where the rounding is, matter for the loss."""


@dataclass(frozen=True, slots=True)
class BenchRun:
    """What a claim may read of a run."""

    validation_loss: float
    """The last one, of the deployed model; inf for a run that is not finite any more."""
    lost_updates: float = 0.0
    """Share of the planned updates that never happened: not finite, or after the run had to stop."""
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The values of each, of the steps that have one."""
    predicted_stall: float | None = None
    """Of the first step; None without stored weights."""
    gains: tuple[tuple[float, ...], ...] = ()
    """Those of each LayerNorm at the end of a run that was asked to keep its last checkpoint."""

    def metric(self, name: str) -> tuple[float, ...]:
        """The values of a metric, none where it was not measured."""
        return self.metrics.get(name, ())


RunKey = tuple[int, Overrides]
"""Seed and arm."""


class Bench:
    """The runs that there are, and what claims read of several of them together.

    Args:
        seeds: of every arm.
        runs: those that have been made; more may be put in.
    """

    def __init__(self, seeds: Sequence[int] = SEEDS, runs: Mapping[RunKey, BenchRun] | None = None) -> None:
        self.seeds = tuple(seeds)
        self.runs: dict[RunKey, BenchRun] = dict(runs or {})

    def run(self, seed: int, arm: Overrides) -> BenchRun:
        """The run of ``arm`` with ``seed``; KeyError for one that the claim does not name among its arms."""
        return self.runs[seed, arm]

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
