"""Claims about which format trains: the pair of FP8, saturation, and how bits are best divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from altgrad_cli.claims.bench import (
    ENDS,
    ENDS_APART,
    FP32,
    FROZEN,
    RATE,
    TRACKS,
    Bench,
    Overrides,
    on_masters,
)
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.claims.stored_weights import DRAWS
from altgrad_cli.rounding.quantize import quantize

BF16: Overrides = ("precision.regime=bf16",)
HYBRID = on_masters("E4M3", "precision.rules=[{pattern: blocks.*, format: E4M3, gradient_format: E5M2}]")
"""W and A in E4M3, G in E5M2."""
HYBRID_TO_INF = (*HYBRID, "precision.overflow=ieee")
BLOCK = "@32:bf16"
"""A scale for 32 values, in BF16, which is near enough to exact to favour no format."""
MOST_LOST = 0.01
"""Share of updates that may be lost; FP16's loss scaling loses about one of 2,000."""


def _hybrid(bench: Bench) -> Measurement:
    pairs = zip(bench.losses(HYBRID), bench.losses(BF16), strict=True)
    relative = SeedValues(tuple(mine / theirs - 1 for mine, theirs in pairs))
    return bench.measured([bench.ends_apart(), relative], {"frozen": FROZEN, "bf16": BF16, "fp8": HYBRID})


def _saturate(bench: Bench) -> Measurement:
    lost = [
        SeedValues(tuple(bench.run(seed, arm).lost_updates for seed in bench.seeds))
        for arm in (HYBRID_TO_INF, HYBRID)
    ]
    return bench.measured(lost, {"to inf": HYBRID_TO_INF, "saturating": HYBRID})


def _by_name(*formats: str) -> dict[str, Overrides]:
    """W, A and G in each of ``formats`` on float32 masters."""
    return {name: on_masters(name) for name in formats}


def _behind(arms: Mapping[str, Overrides]) -> Callable[[Bench], Measurement]:
    """How far each of ``arms`` but the first lies behind the first."""
    best, *others = arms.values()

    def measure(bench: Bench) -> Measurement:
        gaps = [bench.gap(other, best) for other in others]
        return bench.measured([bench.ends_apart(), *gaps], {"fp32": FP32, "frozen": FROZEN, **arms})

    return measure


EIGHT_BITS = _by_name("E4M3", "E1M6", "E7M0")
FOUR_BITS = _by_name(f"E2M1{BLOCK}", f"E1M2{BLOCK}", f"E3M0{BLOCK}")
UNIFORM_FIRST = _by_name(f"E1M2{BLOCK}", f"E2M1{BLOCK}")


def relative_shrinkage(format: str, seed: int, count: int = 1 << 18) -> float:
    """sum(|Q(x)|) / sum(|x|) - 1 of normal x in blocks of 32, exactly scaled; below 0 where values shrink."""
    x = torch.randn(count // 32, 32, generator=torch.Generator().manual_seed(seed))
    return float(quantize(x, f"{format}@32:float32").abs().double().sum() / x.abs().double().sum() - 1)


def _shrinkage(bench: Bench) -> Measurement:
    two, one = ([relative_shrinkage(format, seed) for seed in DRAWS] for format in ("E2M1", "E1M2"))
    more = [first - second for first, second in zip(two, one, strict=True)]
    return Measurement((SeedValues(tuple(two)), SeedValues(tuple(more))), DRAWS)


OTHER_RATE = 1.5e-3
SHORT_OF_EXPONENT, SHORT_OF_MANTISSA = "E4M7:ieee", "E8M3:ieee"


def _at(rate: float, arm: Overrides) -> Overrides:
    return arm if rate == RATE else (*arm, f"learning_rate={rate}")


def failed_share(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Share of runs that are not finite, or more than ``TRACKS`` behind the reference of seed and rate."""
    pairs = list(zip(losses, reference, strict=True))
    return sum(not mine - theirs <= TRACKS for mine, theirs in pairs) / len(pairs)


BOTH_RATES = (RATE, OTHER_RATE)
SHORT: Mapping[str, Overrides] = {"fp32": FP32} | {
    name: on_masters(name, "precision.scaling.recipe=none") for name in (SHORT_OF_EXPONENT, SHORT_OF_MANTISSA)
}
SHORT_AT_RATES = {
    f"{name}, {rate:g}": _at(rate, arm) for (name, arm), rate in product(SHORT.items(), BOTH_RATES)
}


def _bits_removed(bench: Bench) -> Measurement:
    more = []
    for seed in bench.seeds:
        losses = {
            name: [bench.run(seed, _at(rate, arm)).validation_loss for rate in BOTH_RATES]
            for name, arm in SHORT.items()
        }
        exponent, mantissa = (
            failed_share(losses[name], losses["fp32"]) for name in (SHORT_OF_EXPONENT, SHORT_OF_MANTISSA)
        )
        more.append(exponent - mantissa)
    samples = [bench.ends_apart(), SeedValues(tuple(more))]
    return bench.measured(samples, {"frozen": FROZEN, **SHORT_AT_RATES}, BOTH_RATES)


CLAIMS = (
    Claim(
        name="fp8-pair",
        sentence="E4M3 for weights and activations with E5M2 for gradients matches 16-bit training,"
        " hyperparameters"
        " unchanged.",
        source="Micikevicius et al., FP8 Formats for Deep Learning, arXiv:2209.05433",
        here="W, A, G with float32 masters and a scale a tensor, against the same in BF16.",
        conditions=(
            ENDS_APART,
            Condition("loss of the FP8 pair over that of BF16, less 1", "below", 0.01),
        ),
        measure=_hybrid,
        arms=(*ENDS, BF16, HYBRID),
    ),
    Claim(
        name="saturate",
        sentence="FP8 overflows too often to skip the update as FP16 does: it has to saturate.",
        source="Micikevicius et al., arXiv:2209.05433",
        here="The same pair, delayed scales; overflow gives inf (E5M2) or NaN (E4M3) and drops the update;"
        " ten in a"
        " row end the run.",
        conditions=(
            Condition("share of updates lost where overflow gives inf", "above", MOST_LOST),
            Condition("share of updates lost where it saturates", "below", MOST_LOST),
        ),
        measure=_saturate,
        arms=(HYBRID_TO_INF, HYBRID),
    ),
    Claim(
        name="valley-8-bit",
        sentence="Of 8-bit layouts E4M3 is best: both ends, all mantissa and all exponent, are worse.",
        source="Sun et al., Scaling Laws for Floating Point Quantization Training, arXiv:2501.02423",
        here="W, A, G with float32 masters and a scale a tensor; the ends are E1M6 and E7M0.",
        conditions=(
            ENDS_APART,
            Condition("loss of E1M6 less that of E4M3", "above", 0.0, "nats"),
            Condition("loss of E7M0 less that of E4M3", "above", 0.0, "nats"),
        ),
        measure=_behind(EIGHT_BITS),
        arms=(*ENDS, *EIGHT_BITS.values()),
    ),
    Claim(
        name="best-4-bit",
        sentence="Of 4-bit layouts E2M1 is the best.",
        source="Sun et al., arXiv:2501.02423",
        here="W, A, G with float32 masters and a scale for 32 values; against E1M2 and E3M0.",
        conditions=(
            ENDS_APART,
            Condition("loss of E1M2 less that of E2M1", "above", 0.0, "nats"),
            Condition("loss of E3M0 less that of E2M1", "above", 0.0, "nats"),
        ),
        measure=_behind(FOUR_BITS),
        arms=(*ENDS, *FOUR_BITS.values()),
    ),
    Claim(
        name="uniform-4-bit",
        sentence="A uniform 4-bit grid (E1M2) trains better than E2M1.",
        source="Zhao et al., Rethinking Shrinkage Bias in LLM FP4 Pretraining, arXiv:2606.20381",
        here="As best-4-bit, whose opposite it is; without the source's Hadamard transform, all nearest.",
        conditions=(
            ENDS_APART,
            Condition("loss of E2M1 less that of E1M2", "above", 0.0, "nats"),
        ),
        measure=_behind(UNIFORM_FIRST),
        arms=(*ENDS, *UNIFORM_FIRST.values()),
    ),
    Claim(
        name="shrinkage",
        sentence="Nearest rounding onto E2M1 shrinks values systematically, a uniform grid less so.",
        source="Zhao et al., arXiv:2606.20381",
        here="Normal values in blocks of 32 with exact scales, 262,144 of them a draw.",
        conditions=(
            Condition("sum of |Q(x)| over that of |x|, less 1, on E2M1", "below", 0.0),
            Condition("the same on E2M1 less that on E1M2", "below", 0.0),
        ),
        measure=_shrinkage,
    ),
    Claim(
        name="exponent-bits",
        sentence="Removing exponent bits destabilises training more than removing as many mantissa bits.",
        source="Lee et al., To FP8 and Back Again, arXiv:2405.18710",
        here="BF16 less four bits of either, W, A, G unscaled on float32 masters. A run fails that is"
        f" {TRACKS:g} nats behind fp32.",
        conditions=(
            ENDS_APART,
            Condition("share of runs that fail in E4M7 less that in E8M3", "above", 0.0),
        ),
        measure=_bits_removed,
        arms=(*ENDS, *SHORT_AT_RATES.values()),
    ),
)
