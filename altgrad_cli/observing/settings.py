"""The configuration of an observed run, from what ``observe`` was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import MOST_STEPS, OBSERVED, TrainConfig


def observed_config(
    optimizer: torch.optim.Optimizer,
    *,
    precision: str,
    regime: str,
    monitors: bool,
    shadow: bool,
    subject: str | None,
    overrides: Sequence[str],
) -> TrainConfig:
    """What an observed run depends on, as far as altgrad can know it.

    Args:
        precision: the format under study.
        overrides: further ``key=value``, as a command line has them.

    Raises:
        ConfigError: a key or a value that is not allowed.
    """
    group = optimizer.param_groups[0]
    rate = float(group.get("initial_lr", group["lr"]))
    own = [
        f"subject={subject or OBSERVED}",
        f"fp8_format={precision}",
        f"precision.regime={regime}",
        f"monitors.enabled={str(monitors).lower()}",
        f"use_shadow={str(shadow).lower()}",
        f"max_steps={MOST_STEPS}",
        "nan_policy=patience",
        f"optimizer.rule=torch.optim.{type(optimizer).__name__}",
        "optimizer.warmup_steps=0",
        f"runtime.threads={torch.get_num_threads()}",
        *([f"learning_rate={rate!r}"] if rate > 0 else []),
    ]
    return load_config("base", [*own, *overrides])
