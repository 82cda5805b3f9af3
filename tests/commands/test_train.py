"""`altgrad train` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from tests.small import ARGUMENTS

TINY = (*ARGUMENTS, "max_steps=8", "runtime.evaluation_interval=4", "runtime.checkpoint_interval=3")
"""Arguments of a run of a second."""


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line["metrics"]["loss"] for line in lines if line["event"] == "step"]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "altgrad_cli", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_leaves_its_folder_and_says_where(in_tmp_folder: Path) -> None:
    result = train(*TINY)
    assert result.exit_code == 0, result.stderr
    folder = Path("runs/smoke")
    assert str(folder) in result.stdout
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "events.jsonl",
        "checkpoints",
        "run.json",
    }
    assert len(losses(folder)) == 8
    assert "validation loss" in result.stderr


def test_two_runs_of_one_config_give_the_same_bits_in_folders_of_their_own(in_tmp_folder: Path) -> None:
    assert train(*TINY, "-q").exit_code == 0
    assert train(*TINY, "-q").exit_code == 0
    assert losses(Path("runs/smoke")) == losses(Path("runs/smoke-2"))


def test_json_is_data_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    result = train(*TINY, "fp8_format=e7m0", "--json", "--out", str(tmp_path / "r"))
    document = json.loads(result.stdout)
    assert document["schema"] == "altgrad.train/1"
    assert (document["format"], document["outcome"], document["steps"]) == ("E7M0", "completed", 8)
    assert document["final_loss"] == losses(tmp_path / "r")[-1]
    assert document["verdict"] is None


def test_a_collapse_is_exit_3_with_a_report(tmp_path: Path) -> None:
    out = tmp_path / "r"
    faulty = [*TINY, "fp8_format=E7M0", "--inject", "nan@5:blocks.0.attn.c_attn:gradients"]
    result = train(*faulty, "--json", "--out", str(out))
    assert result.exit_code == 3, result.stderr
    document = json.loads(result.stdout)
    assert document["collapse"] == {"class": "nonfinite", "step": 5}
    assert document["injections"] == ["nan@5:blocks.0.attn.c_attn:gradients"]
    assert Path(document["failure_report"]) == out / "failure_report.md"
    assert list((out / "checkpoints").glob("anomaly_step_5*.pt"))


def test_strict_also_counts_what_is_still_raised(tmp_path: Path) -> None:
    assert train(*TINY, "--strict", "-q", "--out", str(tmp_path / "r")).exit_code == 3


def test_capture_at_writes_forensic_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert train(*TINY, "--capture-at", "2,4", "-q", "--out", str(out)).exit_code == 0
    assert {path.name for path in (out / "checkpoints").glob("anomaly*")} == {
        "anomaly_step_2.pt",
        "anomaly_step_4.pt",
    }


def test_ctrl_c_stops_and_resume_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "cut"
    rarely = ["runtime.evaluation_interval=40", "runtime.checkpoint_interval=40"]
    longer = [*TINY, *rarely, "max_steps=80", "precision.regime=standard", "-q"]
    assert train(*longer, "--out", str(whole)).exit_code == 0
    running = start(*longer, "--out", str(out))
    wait_for(lambda: (out / "events.jsonl").exists() and (out / "events.jsonl").stat().st_size > 10_000)
    running.send_signal(signal.SIGINT)
    _, talk = running.communicate(timeout=120)
    assert running.returncode == 130, talk
    assert f"altgrad train --resume {out}" in talk
    assert len(losses(out)) < 80
    assert train("--resume", str(out), "-q").exit_code == 0
    assert losses(out) == losses(whole)


def test_a_collapsed_run_goes_on_with_what_is_changed_and_that_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "r"
    faulty = [*TINY, "fp8_format=E7M0", "--inject", "nan@5:blocks.0.attn.c_attn:gradients", "-q"]
    assert train(*faulty, "--out", str(out)).exit_code == 3
    again = train("--resume", str(out), "--json")
    assert (again.exit_code, json.loads(again.stdout)["outcome"]) == (3, "collapsed")
    assert "has ended" in again.stderr
    result = train("--resume", str(out), "precision.rounding=stochastic", "inject=[]", "--json")
    assert result.exit_code == 0, result.stderr
    assert "precision.rounding=stochastic" in result.stderr
    assert json.loads(result.stdout)["steps"] == 8
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    starts = [line["config"]["precision"]["rounding"] for line in lines if line["event"] == "run_started"]
    assert starts == ["nearest", "stochastic"]
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 9))
    assert "rounding: stochastic" in (out / "config.yaml").read_text()
    (before,) = out.glob("config_until_step_*.yaml")
    assert "rounding: nearest" in before.read_text()


def test_a_changed_config_is_refused_unless_every_change_is_said(tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert train(*TINY, "-q", "--out", str(out)).exit_code == 0
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    result = train("--resume", str(out), "max_steps=12")
    assert result.exit_code == 2
    assert "learning_rate was 0.001" in result.stderr
    assert "learning_rate=0.002" in result.stderr
    result = train("--resume", str(out), "max_steps=12", "learning_rate=0.002", "-q", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 12


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_sigusr1_asks_a_running_run_for_a_forensic_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "r"
    running = start(*TINY, "max_steps=100000", "-q", "--out", str(out))
    wait_for(lambda: (out / "events.jsonl").exists() and (out / "events.jsonl").stat().st_size > 10_000)
    running.send_signal(signal.SIGUSR1)
    wait_for(lambda: bool(list((out / "checkpoints").glob("anomaly_step_*.pt"))))
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    assert running.returncode == 130


def test_a_dry_run_prints_the_config_and_leaves_nothing(in_tmp_folder: Path) -> None:
    result = train(*TINY, "fp8_format=e7m0", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "fp8_format: e7m0" in result.stdout.lower()
    assert "predicted stall" in result.stderr
    Path("mine.yaml").write_text(result.stdout)
    assert train("mine.yaml", "--dry-run").stdout == result.stdout, "the output is a config"
    assert not Path("runs").exists()
    plan = json.loads(train(*TINY, "--dry-run", "--json").stdout)
    assert plan["config"]["max_steps"] == 8
    assert plan["estimated_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fp8_format=e9z9"], "e9z9"),
        (["no_such_config"], "no_such_config"),
        (["no_such.yaml"], "no_such.yaml"),
        (["lerning_rate=1"], "did you mean"),
        (["learning_rate=fast"], "learning_rate"),
        (["data.path=/no/such/file.txt"], "/no/such/file.txt"),
        (["--inject", "nonsense@x"], "nonsense"),
        (["--device", "tpu"], "device"),
        (["--wandb", "sometimes"], "wandb.mode"),
        (["--name", "../escape"], "not a name"),
        (["--resume", "/no/such/run"], "/no/such/run"),
        (["--resume", "x", "--name", "y"], "--resume"),
        (["--capture-at", "soon"], "capture_at"),
        (["smoke", "max_steps=20", "--capture-at", "0"], "steps from 1 to max_steps (20)"),
        (["smoke", "max_steps=20", "--capture-at", "3,99"], "steps from 1 to max_steps (20)"),
        (["smoke", "max_steps=20", "--inject", "nan@500"], "cannot happen in a run of 20 steps"),
        (["smoke", "max_steps=20", "--inject", "nan@21", "--dry-run"], "cannot happen in a run of 20 steps"),
        (["precision.scaling.recipe=amax", "enable_partition_clipping=true"], "by construction"),
        (["nan_policy=first", "enable_emergency_shift=true"], "emergency shift"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(arguments: list[str], said: str, in_tmp_folder: Path) -> None:
    result = train(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.startswith("error:")
    assert "Traceback" not in result.stderr
    assert not list(in_tmp_folder.glob("runs/*"))


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert train(*TINY, "-q", "--out", str(out)).exit_code == 0
    before = (out / "events.jsonl").read_bytes()
    result = train(*TINY, "-q", "--out", str(out))
    assert result.exit_code == 2
    assert "never overwritten" in result.stderr
    assert f"{out}-2" in result.stderr
    assert (out / "events.jsonl").read_bytes() == before
