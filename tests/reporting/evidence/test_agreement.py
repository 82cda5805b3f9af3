"""A report says of every arm what the sweep said of it: the same controls, rho, grade, reason and outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.reporting.evidence.scope import gather
from altgrad_cli.reporting.pages.comparison.headline import headline
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.plan import plan_sweep
from altgrad_cli.sweeps.results import assemble, write_sweep
from altgrad_cli.sweeps.specification import SweepSpec
from tests.sweeps.conftest import WriteLog

LOSSES = {"fp32": 2.0, "frozen": 3.0, "bf16": 2.02, "e5m2": 2.3, "e7m0": 2.9}


@pytest.mark.parametrize(
    ("axis", "seeds", "spread"),
    [
        (("nan_policy", ("auto", "patience")), (42,), 1.0),
        (("enable_emergency_shift", ("false", "true")), (42,), 1.0),
        (("runtime.compile", ("true", "false")), (42, 43), 1.0),
        (("learning_rate", ("1e-3", "2e-3")), (42,), 0.02),
    ],
)
def test_sweep_and_report_agree(
    write_log: WriteLog,
    tmp_path: Path,
    axis: tuple[str, tuple[str, ...]],
    seeds: tuple[int, ...],
    spread: float,
) -> None:
    spec = SweepSpec(
        base=load_config("base"), order=("E5M2", "E7M0"), seeds=seeds, axes=(axis,), retries=False
    )
    folder = tmp_path / "sweep"
    records = {}
    for number, arm in enumerate(plan_sweep(spec, {})):
        loss = 2.0 + spread * (LOSSES[arm.name.partition("-")[0]] - 2.0) + number / 1000  # no two are equal
        path = write_log(arm.name, config=arm.config, validation={3: loss}, folder=folder)
        records[arm.name] = read_run(path)
    sweep = assemble(folder, spec, records)
    write_sweep(sweep, "finished")
    scope = gather([folder])
    evidence = scope.evidence
    for result in sweep.arms:
        row, name = result.to_json(), result.arm.name
        assert set(row["controls"].values()) <= records.keys(), "a control that does not exist"
        if row["kind"] == "format":
            assert (
                evidence.value(f"{name}: controls")
                == f"{row['controls']['fp32']}, {row['controls']['frozen']}"
            )
        assert evidence.value(f"{name}: recovered_fraction") == row["recovered_fraction"]
        assert evidence.value(f"{name}: recovered_fraction.step") == row["recovered_fraction_step"]
        said = row["verdict"] or (
            None if row["recovered_fraction"] in (0, 1) else f"no verdict: {row['no_verdict_because']}"
        )
        assert evidence.value(f"{name}: verdict") == said
        word = row["verdict"] or (None if row["recovered_fraction"] in (0, 1) else "no verdict")
        assert evidence.value(f"{name}: grade") == word
        assert evidence.value(f"{name}: cause") == row["cause"]
        assert evidence.value(f"{name}: outcome") == row["outcome"]
        assert evidence.value(f"{name}: last(loss)") == row["final_loss"]
        assert evidence.value(f"{name}: last(validation_loss)") == row["val_loss"]
    verdicts = [row.finding.verdict for row in sweep.arms if row.finding and row.finding.rho is None]
    for reason in {str(verdict.open_because) for verdict in verdicts}:
        assert headline(scope).markdown.count(reason) == 1, "said once, of however many runs it is so"
