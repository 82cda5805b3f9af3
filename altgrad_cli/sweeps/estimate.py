"""What a sweep will cost and what its formats will stall at, before anything is run in earnest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.analysis import StallPrediction, predicted_stall
from altgrad_cli.sweeps.arms import Arm

INITIAL_STD = 0.02
"""Standard deviation of the initial weights."""
_TIMED_STEPS = 4


def seconds_per_step(config: TrainConfig) -> float:
    """Wall time of one step of ``config`` on this machine, from a few steps that leave nothing behind.

    Loads the corpus and builds the network, so what would stop the run is found here.
    """
    from altgrad_cli.training.engine import train

    steps = max(_TIMED_STEPS, 2)
    brief = replace(config, max_steps=steps, runtime=replace(config.runtime, evaluation_batches=1), inject=())
    times = []
    last = time.perf_counter()
    for event in train(brief):
        if event.kind == "step":
            times.append(time.perf_counter() - last)
        last = time.perf_counter()
    return median(times)


def estimate_seconds(arms: Sequence[Arm], per_step: float, jobs: int) -> float:
    """Wall time of ``arms`` on ``jobs`` processes, evaluations included; a plain upper guide.

    An evaluation batch is a forward pass, about a third of a step.
    """
    total = 0.0
    for arm in arms:
        config = arm.config
        evaluations = config.max_steps / config.runtime.evaluation_interval + 1
        total += per_step * (config.max_steps + evaluations * config.runtime.evaluation_batches / 3)
    return total / max(1, min(jobs, len(arms)))


def predict_stalls(config: TrainConfig, formats: Sequence[str]) -> dict[str, StallPrediction]:
    """Format -> predicted stall of its stored weights, for initial weights at the configured rate."""
    return {
        name: predicted_stall(
            parse_format(name), config.learning_rate, INITIAL_STD, beta1=config.optimizer.betas[0]
        )
        for name in formats
    }
