"""What a training step costs: plain PyTorch, the regimes, everything that is measured, QPyTorch.

    python -m benchmarks.steps --steps 500 --out reports/cost-of-measuring.md

Every contestant takes one step in turn, so that a busy machine slows all of them alike; quoted are ratios of
medians within one run, and the quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import environment
from benchmarks.networks import (
    DEFAULT_SIZE,
    EVERYTHING,
    LARGE,
    MONITORED,
    PLAIN,
    STANDARD,
    TINY,
    UNIFORM,
    Build,
    Size,
    Step,
    builders,
)
from benchmarks.section import Claim, Options, Section, reason, table
from benchmarks.timing import Measured, interleave

LIMITS: dict[str, tuple[float, float]] = {
    STANDARD: (1.25, 1.12),
    f"compiled: {STANDARD}": (1.05, 1.03),
    UNIFORM: (1.35, 1.15),
    MONITORED: (1.40, 1.20),
    f"compiled: {MONITORED}": (1.15, 1.10),
}
"""Promised: at most so many plain steps, at the default size and at 10.8 M parameters."""
SHADOW_LIMITS = (0.95, 1.02)
TITLES = ("0.8 M parameters, batch 12 x 64", "10.8 M parameters, batch 12 x 256")


def start(build: Mapping[str, Build]) -> tuple[dict[str, Step], dict[str, float], dict[str, str]]:
    """Build everybody and let each take its first step.

    Returns the steps of those that could, the seconds up to the end of each first step, and why the others
    could not.
    """
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, make in build.items():
        begun = time.perf_counter()
        try:
            step = make()
            step()
        except Exception as error:  # noqa: BLE001 - a peer or a compiler that fails is named, the rest measured
            failed[name] = reason(error)
        else:
            steps[name], first[name] = step, time.perf_counter() - begun
    return steps, first, failed


def size_section(number: int, size: Size, rounds: int, options: Options) -> Section:
    """The table of one model size; ``number`` says which of the promises belongs to it."""
    steps, first, failed = start(builders(size, options.threads, compiled=options.compiled))
    measured = interleave(steps, rounds=rounds)
    rows = []
    for name, times in measured.items():
        low, median, high = times.ratio(measured[PLAIN])
        cells = (
            f"{median:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{1e3 * times.median:.1f}",
            f"{first[name]:.1f}",
        )
        rows.append((name, *cells))
    title = "a tiny model: no figure here counts" if options.quick else TITLES[number]
    head = ("step", "times plain", "quartiles", "median, ms", "first step, s")
    lines = [f"### {title}, {rounds} steps of each", "", *table(head, rows), ""]
    return Section(lines=tuple(lines), claims=tuple(_claims(number, measured)), left_out=failed)


def _claims(number: int, measured: Mapping[str, Measured]) -> Iterator[Claim]:
    plain = measured[PLAIN]
    where = TITLES[number].partition(",")[0]
    for name, limits in LIMITS.items():
        if name in measured:
            yield Claim(f"{name}, {where}, to a plain step", measured[name].ratio(plain)[1], limits[number])
    if EVERYTHING in measured and MONITORED in measured:
        turns = zip(*(measured[name].seconds for name in (EVERYTHING, MONITORED, PLAIN)), strict=True)
        added = statistics.median((everything - without) / step for everything, without, step in turns)
        yield Claim(f"what the shadow adds, {where}, to a plain step", added, SHADOW_LIMITS[number])


def section(options: Options) -> Section:
    """Both model sizes."""
    sizes = ((DEFAULT_SIZE, 80), (LARGE, 8))
    parts = [
        size_section(number, TINY if options.quick else size, 9 if options.quick else rounds, options)
        for number, (size, rounds) in enumerate(sizes)
    ]
    lines = [
        "## Training steps",
        "",
        "E5M2. Plain is the same GPT of `nn.Linear` with `torch.optim.AdamW` as a CPU gets it (its for-loop;",
        "foreach and fused are beside it), the same batches and one read of the loss. No step contains an",
        "evaluation or a checkpoint; what is measured every 50 steps only is outside the medians. The first",
        "step's seconds contain building the network; plain PyTorch compiles in it, the engine in its",
        "second, which knows the delayed scales.",
        "",
        *(line for part in parts for line in part.lines),
    ]
    return Section(
        lines=tuple(lines),
        claims=tuple(claim for part in parts for claim in part.claims),
        left_out=parts[0].left_out | parts[1].left_out,
    )


def main() -> None:
    """Measure what measuring costs at the default size, one thread, and write one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    wanted = (PLAIN, "engine, fp32, nothing measured", STANDARD, UNIFORM, MONITORED, EVERYTHING)
    build = builders(DEFAULT_SIZE, options.threads, compiled=False)
    steps, _, _ = start({name: build[name] for name in wanted})
    for _ in range(4):  # the first steps warm up
        for step in steps.values():
            step()
    measured = interleave(steps, rounds=options.steps)
    options.out.write_text("\n".join(report(measured, options.steps, options.threads)) + "\n")
    print(f"written: {options.out}")


def report(measured: Mapping[str, Measured], steps: int, threads: int) -> list[str]:
    """The table of what measuring costs, as Markdown lines."""
    plain, off, everything = (measured[name].median for name in (PLAIN, UNIFORM, EVERYTHING))
    rows = []
    for name, times in measured.items():
        low, _, high = statistics.quantiles(times.seconds, n=4)
        milliseconds = (f"{1e3 * times.median:.1f}", f"{1e3 * low:.1f} to {1e3 * high:.1f}")
        rows.append((name, f"{times.median / plain:.2f}", f"{times.median / off:.2f}", *milliseconds))
    head = ("step", "ratio to plain", "ratio to uniform, nothing measured", "median, ms", "quartiles, ms")
    return [
        "# What measuring costs",
        "",
        f"E5M2, default size, {steps} steps of each contestant, interleaved step by step in one process,",
        f"threads: {threads}. With everything on a step costs **{everything / off:.2f}** times one with",
        "everything off; the float32 shadow alone is a second forward and backward pass.",
        "",
        *table(head, rows),
        "",
        "Compare ratios, not milliseconds, and only inside this table.",
        "",
        *(f"- {line}" for line in environment.describe()),
        "",
        f"`python -m benchmarks.steps --steps {steps} --threads {threads} --out FILE`",
    ]


if __name__ == "__main__":
    main()
