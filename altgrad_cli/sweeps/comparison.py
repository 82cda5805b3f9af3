"""Formats compared over several seeds: in pairs, since runs of one seed share start and batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.noise import Interval, paired_interval
from altgrad_cli.notation import decimals
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.verdicts import JudgedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedComparison:
    """One format over all seeds, held against another run with the same seeds."""

    arm: str
    """The arms' common name, without the seed."""
    against: str
    seeds: int
    """Pairs of finished runs."""
    rho: float | None
    """Mean recovered fraction."""
    rho_spread: float | None
    """Standard deviation of rho between seeds; None for fewer than two."""
    difference: Interval | None
    """Over seeds: validation loss less that of ``against``, nats; below 0 is better."""
    step: int | None
    """The last step at which all of these runs were evaluated, where the difference is taken."""
    pairs: tuple[tuple[str, str], ...]
    """The arms that are compared, seed by seed."""

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "arm": self.arm,
            "against": self.against,
            "seeds": self.seeds,
            "recovered_fraction": self.rho,
            "recovered_fraction_spread": self.rho_spread,
            "step": self.step,
            "val_loss_difference": self.difference.mean if self.difference else None,
            "val_loss_difference_95": self.difference.half_width if self.difference else None,
            "within_noise": self.difference.within_noise if self.difference else None,
        }

    def __str__(self) -> str:
        spread = "" if self.rho_spread is None else f" (spread {self.rho_spread:.2f})"
        text = f"{self.arm}: rho {decimals(self.rho, 2)}{spread} over {self.seeds} seeds"
        gap = self.difference
        if gap is None or gap.half_width is None or self.arm == self.against:
            return text
        return f"{text}; {gap.mean:+.3f} +- {gap.half_width:.3f} nats against {self.against}: {gap.words}"


def seed_groups(arms: Iterable[Arm]) -> list[list[Arm]]:
    """Arms that differ in nothing but their seed, in the order of their first."""
    groups: dict[TrainConfig, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(replace(arm.config, seed=0), []).append(arm)
    return list(groups.values())


def compare_seeds(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> list[SeedComparison]:
    """Each format that was run with several seeds against the first format with the same settings."""
    groups = seed_groups(arm for arm in arms if arm.kind == "format")
    if max(map(len, groups), default=0) < 2:
        return []
    first: dict[TrainConfig, list[Arm]] = {}
    for group in groups:
        first.setdefault(_settings(group), group)
    return [_compare(group, first[_settings(group)], findings) for group in groups]


def _settings(group: list[Arm]) -> TrainConfig:
    """What a group shares with the same arm of another format."""
    return replace(group[0].config, seed=0, fp8_format="E5M2")


def _compare(group: list[Arm], others: list[Arm], findings: Mapping[str, JudgedRun]) -> SeedComparison:
    finished = [arm for arm in group if arm.name in findings]
    rhos = [rho for arm in finished if (rho := findings[arm.name].rho) is not None]
    by_seed = {arm.config.seed: arm for arm in others if arm.name in findings}
    pairs = [(arm, by_seed[arm.config.seed]) for arm in finished if arm.config.seed in by_seed]
    validations = [findings[arm.name].record.validation for pair in pairs for arm in pair]
    step = last_common_step(validations)
    losses = [validation.at(step) for validation in validations] if step is not None else []
    differences = [
        a - b for a, b in zip(losses[::2], losses[1::2], strict=True) if a is not None and b is not None
    ]
    return SeedComparison(
        arm=_name(group[0]),
        against=_name(others[0]),
        seeds=len(finished),
        rho=fmean(rhos) if rhos else None,
        rho_spread=stdev(rhos) if len(rhos) > 1 and all(map(math.isfinite, rhos)) else None,
        difference=paired_interval(differences),
        step=step,
        pairs=tuple((arm.name, other.name) for arm, other in pairs),
    )


def _name(arm: Arm) -> str:
    return arm.name.removesuffix(f"-seed{arm.config.seed}")


def last_common_step(validations: Sequence[Series]) -> int | None:
    """The last step at which all were evaluated; None without one."""
    steps = [set(series.steps.tolist()) for series in validations]
    return max(set.intersection(*steps), default=None) if steps else None
