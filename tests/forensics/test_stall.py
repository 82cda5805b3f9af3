"""A frozen format: no NaN, the update is to blame, and what brings it back to life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.update_rules import RULES
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.forensics.failure import stalled_window
from altgrad_cli.training.engine import train
from tests.forensics.conftest import FAILING, diagnose
from tests.small import SETTINGS


def stalled_run(folder: Path) -> Path:
    config = load_config(
        "e7m0_uniform",
        [
            *SETTINGS,
            *FAILING,
            "max_steps=60",
            "learning_rate=6e-4",
            "runtime.checkpoint_interval=60",
            "runtime.evaluation_interval=60",
            "nan_policy=auto",
        ],
    )
    for _ in train(config, run_dir=folder):
        pass
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stalled_run(tmp_path_factory.mktemp("stalled"))


@pytest.fixture(scope="module")
def document(checkpoints: Path) -> dict[str, Any]:
    return diagnose(checkpoints / "step_000060.pt", Questions(what_if=True))


def test_the_class_is_stall_and_nothing_is_nan(document: dict[str, Any]) -> None:
    assert document["failure"]["class"] == "stall_collapse"
    assert document["failure"]["nonfinite_count"] == 0
    assert document["first_nonfinite"] is None
    assert document["failure"]["step"] <= 11


def test_the_update_is_to_blame(document: dict[str, Any]) -> None:
    assert document["mechanism"]["stage"] == "optimizer update"
    attempts = document["mechanism"]["attempts"]
    assert attempts["as recorded"]["transfer"] <= 0.05
    assert attempts["update rounded stochastically"]["transfer"] == pytest.approx(1.0, abs=0.35)
    assert attempts["stored_weights bypassed"]["transfer"] == 1.0


def test_the_counterfactuals_bring_the_transfer_back(document: dict[str, Any]) -> None:
    by_change = {entry["change"]: entry for entry in document["counterfactuals"]}
    assert by_change["as recorded"]["transfer"] <= 0.05
    assert by_change["update rounded stochastically"]["transfer"] == pytest.approx(1.0, abs=0.35)
    assert by_change["stored_weights left in float32"]["transfer"] == 1.0
    assert by_change["E7M0, nearest, scale delayed"]["transfer"] <= 0.05
    assert by_change["E7M0, stochastic, scale delayed"]["transfer"] == pytest.approx(1.0, abs=0.35)
    assert by_change["BF16, nearest, scale delayed"]["transfer"] > 0.9
    assert all(entry["survives"] for entry in by_change.values())


def test_every_other_update_rule_is_tried_at_its_own_rate(document: dict[str, Any]) -> None:
    rules = {entry["overrides"][0]: entry for entry in document["counterfactuals"] if entry["kind"] == "rule"}
    assert set(rules) == {f"optimizer.rule={name}" for name in RULES} - {"optimizer.rule=adamw"}
    assert rules["optimizer.rule=lion"]["overrides"][1] == "learning_rate=0.0002"
    # One step of a fresh residual is AdamW's step; one of octaves, rounded to nearest, moves no power of two.
    recorded = next(entry for entry in document["counterfactuals"] if entry["kind"] == "recorded")
    assert rules["optimizer.rule=compensated"]["transfer"] == recorded["transfer"]
    assert rules["optimizer.rule=code_step"]["transfer"] == pytest.approx(1.0, abs=0.35)
    assert rules["optimizer.rule=madam"]["stall"] == 1.0


def test_the_next_command_resumes_with_stochastic_rounding(document: dict[str, Any]) -> None:
    assert document["next"]["command"].endswith("precision.rounding=stochastic")
    assert document["next"]["command"].startswith("altgrad train --resume ")


def test_the_run_s_own_capture_of_the_collapse(checkpoints: Path) -> None:
    anomalies = sorted(checkpoints.glob("anomaly_step_*.pt"))
    assert anomalies, "a stall collapse is captured"
    document = diagnose(anomalies[0], Questions(replay=True))
    assert document["failure"]["class"] == "stall_collapse"
    assert document["failure"]["captured_for"] == "stall_collapse"
    assert document["mechanism"]["stage"] == "optimizer update"
    assert document["replay"]["bit_exact"] is True


def test_unscaled_gradients_that_round_to_zero_are_not_the_update_s_fault(tmp_path: Path) -> None:
    config = load_config(
        "e3m4_uniform",
        [*SETTINGS, *FAILING, "precision.scaling.recipe=none", "max_steps=2", "runtime.capture_at=2"],
    )
    for _ in train(config, run_dir=tmp_path):
        pass
    document = diagnose(tmp_path / "checkpoints" / "anomaly_step_2.pt", Questions())
    assert document["failure"]["class"] == "none"  # two steps show no collapse
    worst = document["layers"][0]
    assert worst["underflow_rate"]["gradients"] == 1.0
    assert worst["gradient_sparsity"] == 1.0


@pytest.mark.parametrize(
    ("transfer", "stall", "expected"), [(0.03, 0.98, 11), (0.031, 0.98, None), (0.03, 0.979, None)]
)
def test_a_stall_is_fifty_steps_at_both_limits(transfer: float, stall: float, expected: int | None) -> None:
    history = [
        {"step": step, "update_transfer": transfer if step > 10 else 1.0, "bit_stall_rate": stall}
        for step in range(1, 61)
    ]
    window = stalled_window(history)
    assert (window and window[0]) == expected
    assert stalled_window(history[:49]) is None
