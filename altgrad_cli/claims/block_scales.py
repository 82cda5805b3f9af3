"""Claims about formats with a scale a block: what spreads outliers, and what a block's scale clamps."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from altgrad_cli.claims.bench import (
    FP32,
    RATE,
    TEXT,
    Bench,
    Overrides,
    mean_of_late,
    on_masters,
)
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues
from altgrad_cli.claims.rounded_gradients import WATCHED
from altgrad_cli.rounding.quantize import quantize

FOUR_BIT_BLOCKS = ("MXFP4", "NVFP4")
MIXED = "precision.hadamard=16"


def _gradients_in(format: str, *more: str) -> Overrides:
    return on_masters(format, "precision.roles=[gradients]", "precision.rounding=stochastic_gradients", *more)


PLAIN = {f"{format} G": _gradients_in(format) for format in FOUR_BIT_BLOCKS}
SPREAD = {f"{format} G, Hadamard": _gradients_in(format, MIXED) for format in FOUR_BIT_BLOCKS}


def _hadamard(bench: Bench) -> Measurement:
    samples = []
    for plain, spread in zip(PLAIN.values(), SPREAD.values(), strict=True):
        late = [
            [mean_of_late(bench.run(seed, arm + WATCHED).metric("gradient_sqnr")) for seed in bench.seeds]
            for arm in (spread, plain)
        ]
        samples.append(SeedValues(tuple(mixed - bare for mixed, bare in zip(*late, strict=True))))
    return bench.measured(samples, {"fp32": FP32, **PLAIN, **SPREAD})


CLAMPING = "MXFP8_E4M3"
BLOCK_SIZE = 32
LIKE, ALIKE = 0.93, 0.02
"""Median, and spread of the logarithm, of gains that are as alike as the claim has them."""
KEPT: Overrides = (*FP32, "model.n_layer=4", "runtime.checkpoint_interval=500")
"""Four layers, for more gains: nine LayerNorms of 64."""


def clamped_share(gains: Tensor) -> float:
    """Share of ``gains``, (n,) float32, that MXFP8 puts on the largest code of their block of 32."""
    rounded = quantize(gains, CLAMPING).abs()
    top = 0
    for values, codes in zip(gains.split(BLOCK_SIZE), rounded.split(BLOCK_SIZE), strict=True):
        _, exponent = torch.frexp(values.abs().max())
        # E4M3's largest is 1.75 of its last binade, and the scale puts a block's largest into that
        top += int((codes == torch.ldexp(torch.tensor(1.75), exponent - 1)).sum())
    return top / len(gains)


def _alike(seed: int, count: int = 1 << 14) -> Tensor:
    return LIKE * torch.exp(ALIKE * torch.randn(count, generator=torch.Generator().manual_seed(seed)))


def _clamped_gains(bench: Bench) -> Measurement:
    drawn = SeedValues(tuple(clamped_share(_alike(seed)) for seed in bench.seeds))
    trained = SeedValues(
        tuple(
            fmean(clamped_share(torch.tensor(gains)) for gains in bench.run(seed, KEPT).gains)
            for seed in bench.seeds
        )
    )
    return Measurement((drawn, trained), bench.seeds, (TEXT,), (RATE,), {"fp32": bench.losses(KEPT)})


CLAIMS = (
    Claim(
        name="hadamard",
        sentence="A random Hadamard transform before the rounding makes gradients in blocks of 4 bits more"
        " exact.",
        source="Tseng et al., Training LLMs with MXFP4, arXiv:2502.20586; NVIDIA, arXiv:2509.25149",
        here="G alone, stochastically rounded, 16 tokens mixed; the batch gradient against its float32"
        " shadow, steps 31 to 60.",
        conditions=tuple(
            Condition(f"SQNR in {format}, with the transform less without", "above", 0.0, "dB")
            for format in FOUR_BIT_BLOCKS
        ),
        measure=_hadamard,
        arms=(
            FP32,
            *PLAIN.values(),
            *SPREAD.values(),
            *(arm + WATCHED for arm in (*PLAIN.values(), *SPREAD.values())),
        ),
    ),
    Claim(
        name="clamped-gains",
        sentence="MX clamps LayerNorm gains: those of a block are so alike that they land on its largest code"
        " together.",
        source="Su et al., Characterization and Mitigation of Training Instabilities in Microscaling Formats,"
        " arXiv:2506.20752",
        here=f"Gains in {CLAMPING} with OCP's scales: log-normal ones about {LIKE:g}, and those of four"
        " layers at the end of fp32 runs. The divergence that the source traces to it takes larger models.",
        conditions=(
            Condition("share of log-normal gains on the largest code", "above", 0.9),
            Condition("share of trained gains on the largest code", "above", 0.1),
        ),
        measure=_clamped_gains,
        arms=(KEPT,),
    ),
)
