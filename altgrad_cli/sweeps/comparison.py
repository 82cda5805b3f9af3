"""Formats compared over several seeds: in pairs, since runs of one seed share start and batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from altgrad_cli.metrics.noise import Interval, paired_interval
from altgrad_cli.sweeps.results import ArmResult, SweepRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
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

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "arm": self.arm,
            "against": self.against,
            "seeds": self.seeds,
            "recovered_fraction": self.rho,
            "recovered_fraction_spread": self.rho_spread,
            "val_loss_difference": self.difference.mean if self.difference else None,
            "val_loss_difference_95": self.difference.half_width if self.difference else None,
            "within_noise": self.difference.within_noise if self.difference else None,
        }

    def __str__(self) -> str:
        rho = "-" if self.rho is None else f"{self.rho:.2f}"
        spread = "" if self.rho_spread is None else f" (spread {self.rho_spread:.2f})"
        text = f"{self.arm}: rho {rho}{spread} over {self.seeds} seeds"
        gap = self.difference
        if gap is None or gap.half_width is None or self.arm == self.against:
            return text
        return f"{text}; {gap.mean:+.3f} +- {gap.half_width:.3f} nats against {self.against}: {gap.words}"


def compare_seeds(record: SweepRecord) -> list[Comparison]:
    """Each format of a sweep with several seeds against the first one with the same settings."""
    if len(record.spec.seeds) < 2:
        return []
    groups: dict[str, dict[int, ArmResult]] = {}
    for result in record.arms:
        if result.arm.kind == "format":
            seed = result.arm.config.seed
            groups.setdefault(result.arm.name.removesuffix(f"-seed{seed}"), {})[seed] = result
    first = record.spec.order[0].lower().replace(":", "_")
    comparisons = []
    for name, runs in groups.items():
        other = first + name[len(_format_part(runs)) :]
        comparisons.append(_compare(name, runs, other, groups.get(other, {})))
    return comparisons


def _format_part(runs: dict[int, ArmResult]) -> str:
    return next(iter(runs.values())).arm.format.lower().replace(":", "_")


def _compare(name: str, runs: dict[int, ArmResult], other: str, others: dict[int, ArmResult]) -> Comparison:
    findings = {seed: run.finding for seed, run in runs.items() if run.finding is not None}
    rhos = [f.judgement.rho for f in findings.values() if f.judgement.rho is not None]
    differences = []
    for seed, finding in findings.items():
        opposite = others[seed].finding if seed in others else None
        if opposite is not None:
            difference = _at_common_step(finding.record.validation, opposite.record.validation)
            if difference is not None:
                differences.append(difference)
    return Comparison(
        arm=name,
        against=other,
        seeds=len(findings),
        rho=fmean(rhos) if rhos else None,
        rho_spread=stdev(rhos) if len(rhos) > 1 and all(map(math.isfinite, rhos)) else None,
        difference=paired_interval(differences),
    )


def _at_common_step(one: Any, other: Any) -> float | None:
    """Difference of two validation series at the last step that both have."""
    for step, loss in reversed(list(one)):
        opposite = other.at(step)
        if opposite is not None:
            return float(loss - opposite)
    return None
