"""What a training step costs: plain PyTorch, the regimes, and everything that is measured.

    python -m benchmarks.steps --steps 500 --out reports/cost-of-measuring.md

Every contestant takes one step in turn, so that a busy machine slows all of them alike; quoted are ratios of
medians within one run, and the quartiles. The engine's steps contain no evaluation and no checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from altgrad_cli.data.batches import draw_batch
from altgrad_cli.data.corpus import load_corpus
from altgrad_cli.models.gpt import GPT, cross_entropy, initialize
from altgrad_cli.training.config import TrainConfig
from altgrad_cli.training.config_loading import load_config
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Event, StepCompleted
from benchmarks import environment

Step = Callable[[], float]

LONG = ("runtime.evaluation_interval=1000000", "runtime.evaluation_batches=1", "max_steps=1000000")
EVERYTHING = ("log_stiffness=true", "log_grid_alignment=true", "log_ulp=true")
OFF = "monitors.enabled=false"
CONTESTANTS: dict[str, tuple[str, ...]] = {
    "fp32 through the engine, nothing measured": ("precision.regime=fp32", OFF),
    "standard (W, A, G), nothing measured": ("precision.regime=standard", OFF),
    "uniform (A, G, M), nothing measured": ("precision.regime=uniform", OFF),
    "uniform, every measurement but the shadow": (
        "precision.regime=uniform",
        "use_shadow=false",
        *EVERYTHING,
    ),
    "uniform, everything": ("precision.regime=uniform", *EVERYTHING),
}
"""Name -> overrides of the base config."""


def engine_step(config: TrainConfig) -> Step:
    """A function that takes one engine step and returns its seconds."""
    events: Iterator[Event] = train(config)

    def step() -> float:
        while True:
            started = time.perf_counter()
            event = next(events)
            if isinstance(event, StepCompleted):
                return time.perf_counter() - started

    return step


def plain_step(config: TrainConfig) -> Step:
    """The same network and optimizer in plain PyTorch: nn.Linear and torch.optim.AdamW."""
    corpus = load_corpus(config.data, config.model.block_size)
    model = GPT(config.model, corpus.vocab_size, lambda i, o: nn.Linear(i, o, bias=False))
    initialize(model, torch.Generator().manual_seed(config.seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=config.optimizer.betas)
    generator = torch.Generator().manual_seed(config.seed)

    def step() -> float:
        started = time.perf_counter()
        batch = draw_batch(corpus.train, config.batch_size, config.model.block_size, generator)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Measure and write one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    common = (*LONG, f"runtime.threads={options.threads}")
    steps = {"plain PyTorch": plain_step(load_config("base", common))}
    steps |= {name: engine_step(load_config("base", [*common, *own])) for name, own in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.steps + 5):
        for name, step in steps.items():
            taken = step()
            if number >= 5:  # the first steps warm up
                seconds[name].append(taken)
    options.out.write_text("\n".join(report(seconds, options.steps, options.threads)) + "\n")
    print(f"written: {options.out}")


def report(seconds: dict[str, list[float]], steps: int, threads: int) -> list[str]:
    """The table as Markdown lines."""
    plain = statistics.median(seconds["plain PyTorch"])
    off = statistics.median(seconds["uniform (A, G, M), nothing measured"])
    everything = statistics.median(seconds["uniform, everything"])
    lines = [
        "# What measuring costs",
        "",
        f"E5M2, default size, {steps} steps of each contestant, interleaved step by step in one process,",
        f"threads: {threads}. With everything on a step costs **{everything / off:.2f}** times one with",
        "everything off; the float32 shadow alone is a second forward and backward pass.",
        "",
        "| step | ratio to plain | ratio to uniform, nothing measured | median, ms | quartiles, ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, taken in seconds.items():
        median = statistics.median(taken)
        low, _, high = statistics.quantiles(taken, n=4)
        lines.append(
            f"| {name} | {median / plain:.2f} | {median / off:.2f} | {1e3 * median:.1f} "
            f"| {1e3 * low:.1f} to {1e3 * high:.1f} |"
        )
    return [
        *lines,
        "",
        "Compare ratios, not milliseconds, and only inside this table.",
        "",
        *(f"- {line}" for line in environment.describe()),
        "",
        f"`python -m benchmarks.steps --steps {steps} --threads {threads} --out FILE`",
    ]


if __name__ == "__main__":
    main()
