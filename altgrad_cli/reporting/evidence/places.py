"""Which role of which layers does the damage in a run with rules, by the logs of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from altgrad_cli.config.loading import from_plain
from altgrad_cli.config.precision import Regime
from altgrad_cli.config.run import TrainConfig, WandbConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.reductions import layer_means
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.ablation.layers import LocalAttribution, attribute_places, paired_noise
from altgrad_cli.sweeps.ablation.places import Measured, Values

if TYPE_CHECKING:
    from altgrad_cli.reporting.evidence.runs import Evidence


def config_of(log: RunLog) -> TrainConfig:
    """The configuration of a run, less where it was logged to; UsageError for that of another version."""
    return replace(from_plain(log.record.config, log.name), wandb=WandbConfig())


def runs_by_config(evidence: Evidence) -> Mapping[TrainConfig, RunLog]:
    """The finished runs of a report by their configurations; those of another version are left out."""
    found = {}
    for log in evidence.runs.values():
        if log.record.ended is not None:
            try:
                found[config_of(log)] = log
            except UsageError:
                continue
    return found


def places_of(evidence: Evidence, log: RunLog) -> list[LocalAttribution]:
    """For every role that is in trouble somewhere in ``log``: where, and what its rescue shows."""
    try:
        config = config_of(log)
    except UsageError:
        return []
    runs = runs_by_config(evidence)

    def lookup(rescue: TrainConfig) -> Measured | None:
        return measured_log(runs[rescue]) if rescue in runs else None

    return attribute_places(log.name, config, measured_log(log), lookup, noise_of(evidence, log))


def noise_of(evidence: Evidence, log: RunLog) -> float | None:
    """The largest difference of losses that is put down to noise, nats; None without all three controls."""

    def validation_of(regime: Regime) -> Series | None:
        control = evidence.control(log, regime)
        return control.record.validation if control is not None else None

    return paired_noise(validation_of)


def measured_log(log: RunLog) -> Measured:
    """What ``log`` holds of the layers."""

    def mean(metric: str) -> Values:
        return layer_means(log, metric) if metric in log.layers else ()

    def first(metric: str) -> Values:
        return layer_means(log, metric, 1, 1) if metric in log.layers else ()

    return Measured(tuple(log.layer_names), mean, first, log.record.validation)
