"""The learning rate at a step."""

from __future__ import annotations

import math

from altgrad_cli.config.run import TrainConfig


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """The rate of step number ``step`` (from 1): a linear warm-up, then the schedule named in the config."""
    peak, optimizer = config.learning_rate, config.optimizer
    if step < optimizer.warmup_steps:
        return peak * step / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return peak
    span = max(config.max_steps - optimizer.warmup_steps, 1)
    progress = min((step - optimizer.warmup_steps) / span, 1.0)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if optimizer.schedule == "cosine" else 1 - progress
    floor = optimizer.min_learning_rate_ratio
    return peak * (floor + (1 - floor) * left)
