"""Claims about gradients on coarse grids: bias, powers of two, and noise against signal."""

from __future__ import annotations

import math

import torch

from altgrad_cli.claims.bench import (
    ENDS,
    ENDS_APART,
    FP32,
    FROZEN,
    STOCHASTIC_ALL,
    TRACKS,
    Bench,
    Overrides,
    mean_of_late,
    on_masters,
)
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.formats_compared import BLOCK, HYBRID
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.claims.stored_weights import DRAWS
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.rounding.quantize import quantize

LOG_NEAREST = on_masters("E3M0", "precision.roles=[gradients]")
LOG_STOCHASTIC = (*LOG_NEAREST, STOCHASTIC_ALL)
"""Gradients alone in E3M0: a sign and seven powers of two."""
POWERS_OF_TWO = on_masters("E6M0", "precision.roles=[activations, gradients]")
"""A sign and six bits of exponent."""


def log_bias(rounding: Rounding, seed: int, count: int = 1 << 20) -> float:
    """The sum of Q(x) over that of x, less 1, of log-uniform x over ten octaves, on powers of two (E7M0)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.exp2(10 * torch.rand(count, generator=generator) - 5)
    q = quantize(x, "E7M0", rounding=rounding, generator=generator)
    return float(q.double().sum() / x.double().sum() - 1)


def _log_bias(bench: Bench) -> Measurement:
    nearest, stochastic = (
        SeedValues(tuple(log_bias(rounding, seed) for seed in DRAWS)) for rounding in _ROUNDINGS
    )
    return Measurement((nearest, stochastic, stochastic), DRAWS)


_ROUNDINGS: tuple[Rounding, Rounding] = ("nearest", "stochastic")


def _log_gradients(bench: Bench) -> Measurement:
    samples = [bench.ends_apart(), bench.gap(LOG_NEAREST, LOG_STOCHASTIC), bench.gap(LOG_STOCHASTIC)]
    arms = {"fp32": FP32, "frozen": FROZEN, "nearest": LOG_NEAREST, "stochastic": LOG_STOCHASTIC}
    return bench.measured(samples, arms)


def _powers_of_two(bench: Bench) -> Measurement:
    arms = {"fp32": FP32, "frozen": FROZEN, "E6M0": POWERS_OF_TWO}
    return bench.measured([bench.ends_apart(), bench.gap(POWERS_OF_TWO)], arms)


THRESHOLD = math.sqrt(3)
NOISY: dict[str, Overrides] = {
    "fp8 pair": HYBRID,
    "E6M0 A, G": POWERS_OF_TWO,
    "E2M1": on_masters(f"E2M1{BLOCK}"),
    "E3M0 G nearest": LOG_NEAREST,
    "E3M0 G stochastic": LOG_STOCHASTIC,
}
"""Arms that other claims train too, from little noise to much."""
WATCHED: Overrides = ("max_steps=60", "monitors.enabled=true", "use_shadow=true")


def signal_to_noise(sqnr: float) -> float:
    """|g| / |g - g_ref| of an SQNR in dB."""
    return float(10 ** (sqnr / 20))


def _noise(bench: Bench) -> Measurement:
    below, misplaced = [], []
    for seed in bench.seeds:
        reference = bench.run(seed, FP32).validation_loss
        noisy = wrong = 0
        for arm in NOISY.values():
            ratios = [signal_to_noise(db) for db in bench.run(seed, arm + WATCHED).metric("gradient_sqnr")]
            drowned = mean_of_late(ratios) < THRESHOLD
            trails = bench.run(seed, arm).validation_loss - reference > TRACKS
            noisy += drowned
            wrong += drowned != trails
        below.append(float(noisy))
        misplaced.append(float(wrong))
    samples = [bench.ends_apart(), SeedValues(tuple(below)), SeedValues(tuple(misplaced))]
    return bench.measured(samples, {"fp32": FP32, "frozen": FROZEN, **NOISY})


CLAIMS = (
    Claim(
        name="log-bias",
        sentence="Nearest rounding onto powers of two is biased, stochastic rounding is not.",
        source="Chmiel et al., Logarithmic Unbiased Quantization, arXiv:2112.10769",
        here="Log-uniform values on E7M0, a million a draw.",
        conditions=(
            Condition("sum of Q(x) over that of x, less 1, nearest", "below", -0.01),
            Condition("the same, stochastic", "above", -0.002),
            Condition("the same, stochastic", "below", 0.002),
        ),
        measure=_log_bias,
    ),
    Claim(
        name="log-gradients",
        sentence="Gradients in 4 bits, powers of two, train if their rounding is unbiased, and worse if it"
        " is not.",
        source="Chmiel et al., arXiv:2112.10769",
        here="G alone in E3M0, a scale a tensor; W and A stay float32, where the source has 4 bits there"
        " too.",
        conditions=(
            ENDS_APART,
            Condition("loss with nearest rounding less that with stochastic", "above", 0.0, "nats"),
            Condition("loss with stochastic rounding less fp32's", "below", TRACKS, "nats"),
        ),
        measure=_log_gradients,
        arms=(*ENDS, LOG_NEAREST, LOG_STOCHASTIC),
    ),
    Claim(
        name="powers-of-two",
        sentence="Activations and gradients that are powers of two in 7 bits train with minimal loss.",
        source="Ortiz et al., Low-Precision Floating-Point Schemes, arXiv:1804.05267",
        here="A and G in E6M0 (sign and six bits of exponent), W in float32; a GPT, not a network for"
        " images.",
        conditions=(
            ENDS_APART,
            Condition("loss of the powers of two less fp32's", "below", TRACKS, "nats"),
        ),
        measure=_powers_of_two,
        arms=(*ENDS, POWERS_OF_TWO),
    ),
    Claim(
        name="noise-threshold",
        sentence="Training stops being effective where the gradient is below sqrt 3 times its quantisation"
        " noise,"
        " not above it.",
        source="Chmiel et al., FP4 All the Way, arXiv:2505.19115",
        here=f"{len(NOISY)} arms; the ratio of the batch gradient to its distance from the float32 shadow,"
        f" steps 31 to"
        f" 60. Misplaced: on the wrong side of sqrt 3 for whether the arm trails fp32 by {TRACKS:g} nats.",
        conditions=(
            ENDS_APART,
            Condition("arms below sqrt 3", "above", 0.5, "arms", premise=True),
            Condition("arms that are misplaced", "below", 0.5, "arms"),
        ),
        measure=_noise,
        arms=(*ENDS, *NOISY.values(), *(arm + WATCHED for arm in NOISY.values())),
    ),
)
