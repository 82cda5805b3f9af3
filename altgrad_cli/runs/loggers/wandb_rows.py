"""What a step looks like in Weights & Biases: one row of grouped keys. Pure; no wandb here.

W&B makes a section of everything before the first slash:

    run/loss, run/validation_loss, run/nonfinite ...     the run's own scalars
    <metric>/all, <metric>/<layer>                       a metric pooled and by layer
    <metric>.<role>/all, <metric>.<role>/<layer>         the same for a role
    codes/<role>                                         histogram over the format's codes, all layers
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from altgrad_cli.runs.loggers.listener import grouped
from altgrad_cli.runs.series import sum_counts
from altgrad_cli.training.events import Alert, Evaluated, Number, StepCompleted

MAX_BINS = 512
"""W&B takes no histogram of more bins; the codes of a 16-bit format are left out."""
_RUN_SECTION = "run"


def step_row(event: StepCompleted, layers: Sequence[str]) -> dict[str, float]:
    """Everything measured in a step by its key in W&B; what was not measured is absent.

    ``run/nonfinite`` counts what W&B's charts cannot show, since they leave out NaN points: 1 for a dropped
    update and 1 for every value that is not finite.
    """
    row: dict[str, float] = {}
    for name, value in event.metrics.items():
        if value is not None:
            row[_key(name, pooled=name in event.layers)] = value
    for name, values in event.layers.items():
        section = name.replace("/", ".")
        row |= {
            f"{section}/{layer}": value
            for layer, value in zip(layers, values, strict=False)
            if value is not None
        }
    nonfinite = sum(not math.isfinite(value) for value in row.values())
    row[f"{_RUN_SECTION}/nonfinite"] = nonfinite + (not event.committed)
    row[f"{_RUN_SECTION}/committed"] = int(event.committed)
    return row


def evaluation_row(event: Evaluated) -> dict[str, float]:
    """The evaluation's part of its step's row."""
    values: Mapping[str, Number] = {
        "validation_loss": event.validation_loss,
        "validation_loss_master": event.validation_loss_master,
        "perplexity": event.perplexity,
        **event.scores,
    }
    return {f"{_RUN_SECTION}/{name}": value for name, value in values.items() if value is not None}


def code_counts(event: StepCompleted) -> dict[str, list[int]]:
    """``codes/<role>`` -> counts by code over all layers that share the role's format, the NaN bin last."""
    pooled = {role: sum_counts(tables).tolist() for role, tables in event.histograms.items() if any(tables)}
    return {f"codes/{role}": counts for role, counts in pooled.items() if len(counts) <= MAX_BINS}


def alert_texts(alerts: Sequence[Alert]) -> list[tuple[str, str]]:
    """(title, text) of the alerts of one step, those of several layers in one."""
    texts = []
    for (name, metric, state), group in grouped(alerts).items():
        layers = [alert.layer for alert in group if alert.layer is not None]
        values = ", ".join(
            f"{alert.layer or 'pooled'} {alert.value:.3g}" for alert in group[:8] if alert.value is not None
        )
        more = f" and {len(group) - 8} more" if len(group) > 8 else ""
        where = f" in {len(layers)} layers" if layers else ""
        texts.append(
            (
                f"{name} {state}",
                f"step {group[0].step}: {metric}{where}, threshold {group[0].threshold}: {values}{more}",
            )
        )
    return texts


def _key(name: str, *, pooled: bool) -> str:
    if pooled or "/" in name:
        return f"{name.replace('/', '.')}/all"
    return f"{_RUN_SECTION}/{name}"
