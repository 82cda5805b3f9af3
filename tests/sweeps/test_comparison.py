"""Several seeds: paired differences against a t-interval worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.comparison import SeedComparison, compare_seeds
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
