"""The study's public names for a run: the same engine under the names of the study."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import altgrad_cli.training
from altgrad_cli.config.loading import to_yaml
from altgrad_cli.errors import ConfigError
from altgrad_cli.training import FormatExperimentRunner, TrainConfig, run_format_experiment
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import RunEnded, StepCompleted

Tiny = Callable[..., TrainConfig]


def test_the_runner_gives_what_the_engine_gives(tiny: Tiny) -> None:
    config = tiny("fp8_format=E7M0", "diagnostic_interval=1")
    events = list(train(config))
    result = FormatExperimentRunner(config).run()
    steps = [event for event in events if isinstance(event, StepCompleted)]
    assert list(result.losses) == [event.metrics["loss"] for event in steps]
    assert [snapshot.step for snapshot in result.snapshots] == [4, 5, 6, 7, 8]
    last = result.snapshots[-1]
    assert list(last.layers["bit_stall_rate"].values()) == list(steps[-1].layers["bit_stall_rate"])
    assert (result.initial_format, result.outcome, result.collapsed) == ("E7M0", "completed", False)
    assert result.final_loss == result.losses[-1]
    assert result.run_dir is None


def test_a_shifted_run_is_recorded_under_the_format_it_began_with(tiny: Tiny) -> None:
    faults = ",".join(f"nan@{step}:blocks.0.attn.c_attn:gradients" for step in (3, 4, 5))
    config = tiny("fp8_format=E7M0", "enable_emergency_shift=true", f"inject={faults}")
    result = FormatExperimentRunner(config).run()
    assert result.initial_format == "E7M0"
    assert result.format_timeline == ((0, "E7M0"), (5, "E5M2"))


def test_a_collapse_says_when_and_why(tiny: Tiny) -> None:
    result = FormatExperimentRunner(
        tiny("fp8_format=E7M0", "inject=nan@3:blocks.0.attn.c_attn:gradients")
    ).run()
    assert result.collapsed
    assert (result.collapse_class, result.collapse_step) == ("nonfinite", 3)
    assert "blocks.0.attn.c_attn" in (result.collapse_reason or "")
    assert len(result.losses) == 3


def test_a_config_file_is_run_in_a_folder_of_its_name(tiny: Tiny, in_tmp_folder: Path) -> None:
    Path("mine.yaml").write_text(to_yaml(tiny()))
    first = run_format_experiment("mine.yaml", "cpu")
    second = run_format_experiment(Path("mine.yaml"), device="cpu")
    assert first.run_dir == Path("runs/mine")
    assert second.run_dir == Path("runs/mine-2")
    assert first.losses == second.losses
    assert isinstance(list(train(tiny()))[-1], RunEnded)


def test_an_unknown_device_is_refused(tiny: Tiny, in_tmp_folder: Path) -> None:
    Path("mine.yaml").write_text(to_yaml(tiny()))
    with pytest.raises(ConfigError, match="gpu0"):
        run_format_experiment("mine.yaml", "gpu0")
    assert not Path("runs").exists()


def test_every_public_name_is_there() -> None:
    assert {
        "TrainConfig",
        "FormatExperimentRunner",
        "ExperimentResult",
        "DiagnosticSnapshot",
        "run_format_experiment",
    } <= set(altgrad_cli.training.__all__)
    for name in altgrad_cli.training.__all__:
        assert getattr(altgrad_cli.training, name) is not None


def test_reading_a_configuration_costs_no_torch() -> None:
    code = "import sys, altgrad_cli.config.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
