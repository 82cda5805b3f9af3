"""Formats compared over several seeds: in pairs, since runs of one seed share start and batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from altgrad_cli.config.memory import bits_a_weight
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.noise import Interval, paired_interval
from altgrad_cli.notation import decimals
from altgrad_cli.runs.series import Series
from altgrad_cli.sweeps.arms import Arm, control_config
from altgrad_cli.sweeps.specification import ROUNDED_STOCHASTICALLY
from altgrad_cli.sweeps.tuning import rates_tried, tried_for, without_seed
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
    """What a group shares with the same arm of another format; where rates were chosen each has its own."""
    config = replace(group[0].config, seed=0, fp8_format="E5M2")
    return replace(config, learning_rate=1.0) if config.data.evaluate_on == "final" else config


def _compare(group: list[Arm], others: list[Arm], findings: Mapping[str, JudgedRun]) -> SeedComparison:
    finished = [arm for arm in group if arm.name in findings]
    rhos = [rho for arm in finished if (rho := findings[arm.name].rho) is not None]
    by_seed = {arm.config.seed: arm.name for arm in others}
    pairs = [(arm.name, by_seed[arm.config.seed]) for arm in finished if arm.config.seed in by_seed]
    paired = pair_up(pairs, findings)
    return SeedComparison(
        arm=without_seed(group[0]),
        against=without_seed(others[0]),
        seeds=len(finished),
        rho=fmean(rhos) if rhos else None,
        rho_spread=stdev(rhos) if len(rhos) > 1 and all(map(math.isfinite, rhos)) else None,
        difference=paired.difference,
        step=paired.step,
        pairs=paired.pairs,
    )


@dataclass(frozen=True, slots=True)
class Paired:
    """Validation losses of pairs of runs at the last step at which all of them were evaluated."""

    pairs: tuple[tuple[str, str], ...]
    """The arms, seed by seed; those that have not ended are left out."""
    step: int | None
    differences: tuple[float, ...]
    """The first's less the second's, in nats, pair by pair."""

    @property
    def difference(self) -> Interval | None:
        """Their mean and its interval over the seeds."""
        return paired_interval(self.differences)

    @property
    def firsts(self) -> str:
        """The runs that are held against others, as a source names several."""
        return ",".join(first for first, _ in self.pairs)

    @property
    def seconds(self) -> str:
        """The runs that they are held against, in the same order."""
        return ",".join(second for _, second in self.pairs)

    @property
    def is_of_itself(self) -> bool:
        """Whether each run is held against itself: it is what others are held against."""
        return all(first == second for first, second in self.pairs)


def pair_up(pairs: Iterable[tuple[str, str]], findings: Mapping[str, JudgedRun]) -> Paired:
    """The difference over ``pairs`` of arms, by name."""
    ended = [pair for pair in pairs if all(name in findings for name in pair)]
    validations = [findings[name].record.validation for pair in ended for name in pair]
    step = last_common_step(validations)
    losses = [validation.at(step) for validation in validations] if step is not None else []
    differences = tuple(
        a - b for a, b in zip(losses[::2], losses[1::2], strict=True) if a is not None and b is not None
    )
    return Paired(tuple(ended), step, differences)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGap:
    """What an arm loses against float32, over its seeds: under its own update rule, and under the best."""

    arm: str
    """The arms' common name, without the seed."""
    rule: str
    learning_rate: float
    bits: float | None
    """Kept of a weight from step to step: weight, residual, moments; None for an optimizer of torch's."""
    rho: float | None
    """Mean recovered fraction between the controls of its rule."""
    own: Paired
    """Against fp32 with the same rule: what the format costs."""
    best: Paired
    """Against fp32 with the rule that is best there: what format and rule cost together. The best of rules
    that were tuned is that of the lowest loss of a trial, on text that this difference does not use; of
    others, the first."""
    against: str
    """The arm of ``best``, without the seed."""

    def to_json(self) -> dict[str, object]:
        """Plain values; losses in nats."""
        return {
            "arm": self.arm,
            "rule": self.rule,
            "learning_rate": self.learning_rate,
            "bits_a_weight": self.bits,
            "recovered_fraction": self.rho,
            "seeds": len(self.best.pairs),
            **_gap("to_fp32_of_rule", self.own),
            **_gap("to_best_fp32", self.best),
            "best_fp32": self.against,
        }


def _gap(name: str, paired: Paired) -> dict[str, object]:
    gap = paired.difference
    return {
        f"{name}": gap.mean if gap else None,
        f"{name}_95": gap.half_width if gap else None,
        f"{name}_step": paired.step,
    }


def loss_gaps(arms: Iterable[Arm], findings: Mapping[str, JudgedRun]) -> list[LossGap]:
    """fp32 with every rule, then the formats.

    Where neither rules nor tuned rates are compared, every learning rate has a best fp32 of its own.
    """
    arms = list(arms)
    groups = seed_groups(arm for arm in arms if arm.kind in ("control", "format"))
    fp32 = [group for group in groups if _is_fp32(group[0])]
    compared = any(arm.kind == "tuning" for arm in arms) or len({_rule(group) for group in fp32}) > 1

    def bench_of(group: list[Arm]) -> TrainConfig:
        found = bench(group[0])
        return found if compared else replace(found, learning_rate=group[0].config.learning_rate)

    lowest = {
        tried_for(tried.first): min(tried.losses.values(), default=math.inf)
        for tried in rates_tried(arms, findings)
    }
    best: dict[TrainConfig, list[Arm]] = {}
    for group in sorted(fp32, key=lambda group: lowest.get(tried_for(group[0]), 0.0)):
        best.setdefault(bench_of(group), group)
    shown = fp32 + [group for group in groups if group[0].kind == "format"]
    return [_loss_gap(group, best[bench_of(group)], findings) for group in shown if bench_of(group) in best]


def _loss_gap(group: list[Arm], best: list[Arm], findings: Mapping[str, JudgedRun]) -> LossGap:
    by_seed = {arm.config.seed: arm.name for arm in best}
    own = [(arm.name, (arm.controls or {}).get("fp32", "")) for arm in group]
    rhos = [found.rho for arm in group if (found := findings.get(arm.name)) and found.rho is not None]
    return LossGap(
        arm=without_seed(group[0]),
        rule=_rule(group),
        learning_rate=group[0].config.learning_rate,
        bits=bits.total if (bits := bits_a_weight(group[0].config)) else None,
        rho=fmean(rhos) if rhos else None,
        own=pair_up(own, findings),
        best=pair_up([(arm.name, by_seed.get(arm.config.seed, "")) for arm in group], findings),
        against=without_seed(best[0]),
    )


def _is_fp32(arm: Arm) -> bool:
    return arm.kind == "control" and arm.config.precision.regime == "fp32"


def _rule(group: list[Arm]) -> str:
    rule = group[0].config.optimizer.rule
    return rule + ROUNDED_STOCHASTICALLY * (group[0].config.precision.rounding == "stochastic")


def bench(arm: Arm) -> TrainConfig:
    """What runs share that a format and an update rule can be compared on."""
    config = control_config(arm.config, "fp32")
    return replace(config, seed=0, learning_rate=1.0, optimizer=replace(config.optimizer, rule="adamw"))


def last_common_step(validations: Sequence[Series]) -> int | None:
    """The last step at which all were evaluated; None without one."""
    steps = [set(series.steps.tolist()) for series in validations]
    return max(set.intersection(*steps), default=None) if steps else None
