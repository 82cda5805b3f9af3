"""Claims about weights that are stored on a grid: which updates are lost, and what brings them back."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch

from altgrad_cli.claims.bench import (
    COMPENSATED,
    ENDS,
    ENDS_APART,
    FP32,
    FROZEN,
    RATE,
    STOCHASTIC,
    TEXT,
    TRACKS,
    Bench,
    Overrides,
    mean_of_late,
    stored,
)
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.rounding.mode import round_to_grid

DRAWS = tuple(range(10))
"""Seeds of what is drawn without training."""
SUMS = 1000
"""Stochastic sums whose mean is one value of the sample."""


def repeated_sum(format: str, rounding: Rounding, count: int = 1, seed: int = 0) -> torch.Tensor:
    """1 + 1000 x 0.001 with every partial sum rounded onto ``format``; (count,) float32, independent sums."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.ones(count)
    for _ in range(1000):
        total = round_to_grid(total + 0.001, format, rounding=rounding, generator=generator)
    return total


def _accumulation(bench: Bench) -> Measurement:
    nearest = SeedValues((abs(float(repeated_sum("BF16", "nearest")) - 1),), exact=True)
    sums = repeated_sum("BF16", "stochastic", SUMS * len(DRAWS)).view(len(DRAWS), SUMS)
    means = SeedValues(tuple(sums.mean(dim=1).tolist()))
    return Measurement((nearest, means, means), DRAWS)


def _updates(format: str) -> dict[str, Overrides]:
    """Nearest, stochastic and compensated updates of weights in ``format``."""
    return {
        "nearest": stored(format),
        "stochastic": stored(format, STOCHASTIC),
        "compensated": stored(format, *COMPENSATED),
    }


def _restored(arms: dict[str, Overrides]) -> Callable[[Bench], Measurement]:
    """How far each of ``arms`` lies behind fp32."""

    def measure(bench: Bench) -> Measurement:
        gaps = [bench.gap(arm) for arm in arms.values()]
        return bench.measured([bench.ends_apart(), *gaps], {"fp32": FP32, "frozen": FROZEN, **arms})

    return measure


FIXED_POINT: dict[str, Overrides] = {"nearest": stored("E0M7"), "stochastic": stored("E0M7", STOCHASTIC)}

SMALL_RATE = 3e-6
BF16_AT_SMALL_RATE: Overrides = (
    "precision.regime=bf16",
    f"learning_rate={SMALL_RATE}",
    "optimizer.warmup_steps=0",
    "optimizer.schedule=constant",
    "max_steps=40",
    "monitors.enabled=true",
)


def _invisible(bench: Bench) -> Measurement:
    runs = [bench.run(seed, BF16_AT_SMALL_RATE) for seed in bench.seeds]
    unmoved = SeedValues(tuple(fmean(run.metric("apparent_stall_rate")) for run in runs))
    return Measurement((unmoved,), bench.seeds, (TEXT,), (SMALL_RATE,))


PREDICTED = ("BF16", "E4M3", "E7M0")


def _at_constant_rate(format: str) -> Overrides:
    return stored(
        format,
        "optimizer.warmup_steps=0",
        "optimizer.schedule=constant",
        "optimizer.weight_decay=0",
        "max_steps=60",
        "monitors.enabled=true",
    )


def _predicted(bench: Bench) -> Measurement:
    first, later = [], []
    for seed in bench.seeds:
        misses_first, misses_later = [], []
        for format in PREDICTED:
            run = bench.run(seed, _at_constant_rate(format))
            observed = run.metric("bit_stall_rate")
            assert run.predicted_stall is not None, "the weights are stored and the rule is AdamW"
            misses_first.append(abs(run.predicted_stall - observed[0]))
            misses_later.append(
                abs(mean_of_late(run.metric("predicted_stall_rate")) - mean_of_late(observed))
            )
        first.append(max(misses_first))
        later.append(max(misses_later))
    return Measurement((SeedValues(tuple(first)), SeedValues(tuple(later))), bench.seeds, (TEXT,), (RATE,))


def _restoration(format: str) -> tuple[Condition, ...]:
    loss = f"loss of {format} weights"
    return (
        ENDS_APART,
        Condition(f"{loss}, nearest, less fp32's", "above", TRACKS, "nats"),
        Condition(f"{loss}, stochastic, less fp32's", "below", TRACKS, "nats"),
        Condition(f"{loss}, compensated, less fp32's", "below", TRACKS, "nats"),
    )


CLAIMS = (
    Claim(
        name="accumulate",
        sentence="1 + 1000 x 0.001 in BF16 stays 1 with nearest rounding and comes to 2 with stochastic.",
        source="HeavyBall, Bias compounds, variance washes out (2026)",
        here=f"The sum itself; of the stochastic one the mean of {SUMS} sums, drawn {len(DRAWS)} times.",
        conditions=(
            Condition("how far the nearest sum lies from 1", "below", 2**-8),
            Condition("the mean stochastic sum", "above", 1.99),
            Condition("the mean stochastic sum", "below", 2.01),
        ),
        measure=_accumulation,
    ),
    Claim(
        name="bf16-weights",
        sentence="Without float32 masters nearest rounding cancels small updates of BF16 weights; stochastic"
        " rounding or Kahan summation brings the loss of 32-bit training back.",
        source="Zamirai et al., Revisiting BFloat16 Training, arXiv:2010.06192",
        here="W, A, G and the stored weights in BF16, the residual too; Adam's moments stay float32.",
        conditions=_restoration("BF16"),
        measure=_restored(_updates("BF16")),
        arms=(*ENDS, *_updates("BF16").values()),
    ),
    Claim(
        name="fp8-weights",
        sentence="The same holds for 8-bit weights: nearest rounding stalls them, and stochastic rounding or"
        " compensation restores them.",
        source="the mechanism of arXiv:2010.06192, for E4M3",
        here="W, A, G and the stored weights in E4M3, the residual in BF16.",
        conditions=_restoration("E4M3"),
        measure=_restored(_updates("E4M3")),
        arms=(*ENDS, *_updates("E4M3").values()),
    ),
    Claim(
        name="fixed-point",
        sentence="Fixed-point weights train only with stochastic rounding, which is nearly as good as"
        " float32;"
        " nearest rounding fails.",
        source="Gupta et al., Deep Learning with Limited Numerical Precision, arXiv:1502.02551",
        here="8 bits (E0M7, a scale a tensor) and AdamW, where the source has 16 bits and SGD.",
        conditions=(
            ENDS_APART,
            Condition("loss of E0M7 weights, nearest, less fp32's", "above", TRACKS, "nats"),
            Condition("loss of E0M7 weights, stochastic, less fp32's", "below", TRACKS, "nats"),
        ),
        measure=_restored(FIXED_POINT),
        arms=(*ENDS, *FIXED_POINT.values()),
    ),
    Claim(
        name="invisible-updates",
        sentence="At the rates of post-training (3e-6) about 99 % of Adam's updates are invisible after the"
        " cast to BF16.",
        source="Miahi and Belilovsky, Weight Update Sparsity, arXiv:2602.03839",
        here="BF16 weights cast from float32 masters, 40 steps from random weights, not a trained model.",
        conditions=(Condition("share of weights whose BF16 value a step leaves", "above", 0.985),),
        measure=_invisible,
        arms=(BF16_AT_SMALL_RATE,),
    ),
    Claim(
        name="predicted-stall",
        sentence="How many updates are lost follows from weights, learning rate and half gaps alone.",
        source="arXiv:2602.03839, section 3; in closed form as altgrad predicts it",
        here=f"Bit-stall of stored weights in {', '.join(PREDICTED)} over 60 steps at a constant rate; the"
        f" farthest off.",
        conditions=(
            Condition("predicted stall less the observed, first step", "below", 0.02),
            Condition("predicted stall less the observed, steps 31 to 60", "below", 0.05),
        ),
        measure=_predicted,
        arms=tuple(_at_constant_rate(format) for format in PREDICTED),
    ),
)
