"""Several seeds: paired differences against a t-interval worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.comparison import SeedComparison, compare_seeds, loss_gaps
from altgrad_cli.sweeps.results import assemble
from altgrad_cli.sweeps.specification import SweepSpec
from tests.sweeps.conftest import WriteLog

E5M2 = {42: 2.40, 43: 2.50, 44: 2.30}


def compared(write_log: WriteLog, tmp_path: Path, e3m4: dict[int, float]) -> list[SeedComparison]:
    spec = SweepSpec(base=load_config("base"), order=("E5M2", "E3M4"), seeds=tuple(e3m4), retries=False)
    records: dict[str, RunRecord] = {}
    for seed in e3m4:
        for name, loss in (
            ("fp32", 2.0),
            ("frozen", 3.0),
            ("e5m2-uniform", E5M2[seed]),
            ("e3m4-uniform", e3m4[seed]),
        ):
            full = f"{name}-seed{seed}"
            records[full] = read_run(write_log(full, validation={3: loss}))
    record = assemble(tmp_path, spec, records)
    return compare_seeds(record.planned, record.findings)


def test_differences_are_paired_by_seed(write_log: WriteLog, tmp_path: Path) -> None:
    """Unpaired, the seeds' own spread (0.1) would hide a difference of 0.05 that every pair shows."""
    control, found = compared(write_log, tmp_path, {42: 2.35, 43: 2.46, 44: 2.24})
    assert (control.arm, found.arm, found.against, found.seeds) == (
        "e5m2-uniform",
        "e3m4-uniform",
        "e5m2-uniform",
        3,
    )
    differences = [-0.05, -0.04, -0.06]
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(mean)
    assert found.difference.half_width == pytest.approx(4.30 * deviation / math.sqrt(3))
    assert found.difference.within_noise is False
    assert found.rho == pytest.approx(1 - (2.35 + 2.46 + 2.24) / 3 + 2)
    assert "outside the noise" in str(found)


def test_a_difference_that_changes_sign_is_inside_the_noise(write_log: WriteLog, tmp_path: Path) -> None:
    found = compared(write_log, tmp_path, {42: 2.45, 43: 2.44, 44: 2.30})[1]
    assert found.difference is not None and found.difference.within_noise is True
    assert "inside the noise" in str(found)


def test_one_seed_compares_nothing(write_log: WriteLog, tmp_path: Path) -> None:
    assert compared(write_log, tmp_path, {42: 2.45}) == []


def test_gaps_are_to_fp32_of_the_rule_and_to_the_fp32_that_the_trials_chose(
    write_log: WriteLog, tmp_path: Path
) -> None:
    """Lion's fp32 is better on the trials, AdamW's at the end: what chooses does not see what is compared."""
    asked = SweepSpec(
        base=load_config("base"),
        order=("E7M0",),
        rules=("adamw", "lion"),
        seeds=(42, 43, 44),
        tune=(1e-3, 2e-3, 3e-3),
        retries=False,
    )
    trials = {"lion": 1.9, "adamw": 2.0}
    final = {
        ("fp32", "adamw"): (2.00, 2.10, 1.90),
        ("fp32", "lion"): (2.03, 2.12, 1.94),
        ("e7m0", "adamw"): (2.40, 2.52, 2.29),
        ("e7m0", "lion"): (2.20, 2.30, 2.10),
    }
    records: dict[str, RunRecord] = {}
    while due := assemble(tmp_path, asked, records).unfinished:
        for arm in (result.arm for result in due):
            rule = arm.config.optimizer.rule
            loss = trials[rule] + abs(arm.config.learning_rate - 2e-3)
            if arm.kind != "tuning":
                kind = arm.name.partition("-")[0]
                loss = final.get((kind, rule), (3.0, 3.0, 3.0))[arm.config.seed - 42]
            records[arm.name] = read_run(write_log(arm.name, config=arm.config, validation={3: loss}))
    record = assemble(tmp_path, asked, records)
    gaps = {gap.arm: gap for gap in loss_gaps(record.planned, record.findings)}
    assert list(gaps) == ["fp32-adamw", "fp32-lion", "e7m0-uniform-adamw", "e7m0-uniform-lion"]
    assert {gap.against for gap in gaps.values()} == {"fp32-lion"}
    assert {gap.learning_rate for gap in gaps.values()} == {2e-3}
    assert [gap.bits for gap in gaps.values()] == [32 + 64, 32 + 32, 8 + 64, 8 + 32]

    def by_hand(arm: tuple[str, str], other: tuple[str, str]) -> tuple[float, float]:
        differences = [a - b for a, b in zip(final[arm], final[other], strict=True)]
        mean = sum(differences) / 3
        deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
        return mean, 4.30 * deviation / math.sqrt(3)

    for rule in ("adamw", "lion"):
        found = gaps[f"e7m0-uniform-{rule}"]
        for paired, other in ((found.own, ("fp32", rule)), (found.best, ("fp32", "lion"))):
            assert paired.difference is not None
            mean, width = by_hand(("e7m0", rule), other)
            assert paired.difference.mean == pytest.approx(mean)
            assert paired.difference.half_width == pytest.approx(width)
        assert found.rho == pytest.approx(
            sum((3 - a) / (3 - b) for a, b in zip(final["e7m0", rule], final["fp32", rule], strict=True)) / 3
        )
    assert gaps["fp32-lion"].best.is_of_itself and not gaps["fp32-adamw"].best.is_of_itself


def test_without_rules_and_tuned_rates_every_rate_has_its_own_fp32(
    write_log: WriteLog, tmp_path: Path
) -> None:
    axes = (("learning_rate", ("1e-3", "2e-3")),)
    asked = SweepSpec(base=load_config("base"), order=("E7M0",), axes=axes, retries=False)
    losses = {"fp32": (2.0, 1.8), "e7m0-uniform": (2.5, 2.1)}
    records = {
        (full := f"{name}-learning_rate-{rate}"): read_run(write_log(full, validation={3: loss}))
        for name, both in losses.items()
        for rate, loss in zip(axes[0][1], both, strict=True)
    }
    record = assemble(tmp_path, asked, records)
    gaps = [gap.best.difference for gap in loss_gaps(record.planned, record.findings)]
    assert [gap and gap.mean for gap in gaps] == pytest.approx([0.0, 0.0, 0.5, 0.3])
