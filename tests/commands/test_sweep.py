"""`altgrad sweep` as a user meets it: the table, its JSON, mistakes, and every way to be interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app

KEYS = {
    *("name", "kind", "retry_of", "format", "regime", "seed", "outcome", "collapse_class", "collapse_step"),
    *("final_loss", "val_loss", "recovered_fraction", "stall_rate", "overflow_rate", "underflow_rate"),
    *("nonfinite_steps", "verdict", "run_dir"),
}
TEXT = "Article {n}. The Commission shall, by means of act {n}, adopt the measures in Annex {n}.\n\n"


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments of a sweep whose arms take a second each."""
    (tmp_path / "law.txt").write_text("".join(TEXT.format(n=n) for n in range(80)))
    return [
        "smoke",
        f"data.path={tmp_path / 'law.txt'}",
        "model.n_layer=1",
        "model.n_embd=16",
        "model.block_size=16",
        "batch_size=2",
        "max_steps=8",
        "runtime.evaluation_interval=4",
        "runtime.evaluation_batches=1",
        "runtime.checkpoint_interval=3",
    ]


def sweep(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


def without_place(result: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in arm.items() if k != "run_dir"} for arm in json.loads(result)["arms"]]


def process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "altgrad_cli", "sweep", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_table_and_the_json_come_from_the_same_events(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s"
    first = sweep(*tiny, "--order", "e5m2,e7m0", "--no-retries", "--out", str(out), "--json", "-q")
    assert first.exit_code == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["schema"] == "altgrad.sweep/1"
    assert [arm["name"] for arm in document["arms"]] == [
        *("fp32", "bf16", "frozen", "e5m2-uniform", "e7m0-uniform")
    ]
    for arm in document["arms"]:
        assert set(arm) >= KEYS
        assert arm["outcome"] == "completed"
        assert isinstance(arm["val_loss"], float)
    by_name = {arm["name"]: arm for arm in document["arms"]}
    assert by_name["fp32"]["recovered_fraction"] == 1.0
    assert by_name["frozen"]["recovered_fraction"] == 0.0
    assert by_name["fp32"]["stall_rate"] is None
    assert by_name["e7m0-uniform"]["stall_rate"] > 0.5
    # The log is the only truth: without the summaries, a resumed sweep says the same.
    for run in out.iterdir():
        (run / "run.json").unlink(missing_ok=True)
    again = sweep("--resume", str(out), "--json", "-q")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == document
    table = sweep("--resume", str(out), "-q")
    assert "e7m0-uniform" in table.stdout
    assert f"{by_name['e7m0-uniform']['val_loss']:.3f}" in table.stdout


def test_results_do_not_depend_on_the_number_of_jobs(tiny: list[str], tmp_path: Path) -> None:
    asked = [*tiny, "--order", "e7m0", "--no-retries", "--json", "-q"]
    one = sweep(*asked, "--jobs", "1", "--out", str(tmp_path / "one"))
    three = sweep(*asked, "--jobs", "3", "--out", str(tmp_path / "three"))
    assert without_place(one.stdout) == without_place(three.stdout)


def test_a_collapse_is_a_result_and_the_sweep_goes_on(tiny: list[str], tmp_path: Path) -> None:
    faulty = [*tiny, "inject=nan@3:blocks.0.attn.c_attn:gradients", "--order", "e7m0,e3m4", "--no-retries"]
    result = sweep(*faulty, "--out", str(tmp_path / "s"), "--json", "-q")
    assert result.exit_code == 0, result.stderr
    arms = {arm["name"]: arm for arm in json.loads(result.stdout)["arms"]}
    for name in ("e7m0-uniform", "e3m4-uniform"):
        assert (arms[name]["outcome"], arms[name]["collapse_class"]) == ("collapsed", "nonfinite")
        assert arms[name]["collapse_step"] == 3
        assert arms[name]["nonfinite_steps"] == 1
        assert (tmp_path / "s" / name / "failure_report.md").is_file()
    assert arms["fp32"]["outcome"] == "completed"
    strict = sweep("--resume", str(tmp_path / "s"), "--strict", "-q")
    assert strict.exit_code == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_to_the_same_table(tiny: list[str], tmp_path: Path, number: int) -> None:
    asked = [*tiny, "max_steps=30", "--order", "e7m0", "--no-retries", "--json", "-q"]
    whole = sweep(*asked, "--out", str(tmp_path / "whole"))
    out = tmp_path / "cut"
    running = process(*asked, "--jobs", "1", "--out", str(out))
    wait_for(lambda: (out / "bf16" / "events.jsonl").exists())
    wait_for(lambda: (out / "bf16" / "events.jsonl").stat().st_size > 20_000)
    running.send_signal(number)
    _, talk = running.communicate(timeout=120)
    if number == signal.SIGINT:
        assert running.returncode == 130, talk
        assert f"altgrad sweep --resume {out}" in talk
        assert json.loads((out / "sweep.json").read_text())["state"] == "interrupted"
    finished = (out / "fp32" / "events.jsonl").read_bytes()
    resumed = sweep("--resume", str(out), "--json", "-q")
    assert resumed.exit_code == 0, resumed.stderr
    assert without_place(resumed.stdout) == without_place(whole.stdout)
    assert (out / "fp32" / "events.jsonl").read_bytes() == finished


def test_a_killed_worker_is_started_again_from_its_checkpoint(tiny: list[str], tmp_path: Path) -> None:
    asked = [*tiny, "max_steps=40", "--order", "e7m0", "--no-retries", "--json", "-q"]
    whole = sweep(*asked, "--out", str(tmp_path / "whole"))
    out = tmp_path / "cut"
    running = process(*asked, "--jobs", "1", "--out", str(out))
    wait_for(lambda: (out / "bf16" / "events.jsonl").exists())
    children = subprocess.run(
        ["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for child in children:
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in command:
            os.kill(int(child), signal.SIGKILL)
    data, talk = running.communicate(timeout=180)
    assert running.returncode == 0, talk
    assert without_place(data) == without_place(whole.stdout)


def test_an_arm_that_dies_twice_is_left_unfinished_and_said(tiny: list[str], tmp_path: Path) -> None:
    asked = [*tiny, "inject=kill@5", "--order", "e7m0", "--no-retries"]
    result = sweep(*asked, "--out", str(tmp_path / "s"), "--json")
    assert result.exit_code == 1
    arms = {arm["name"]: arm["outcome"] for arm in json.loads(result.stdout)["arms"]}
    assert arms["e7m0-uniform"] == "unfinished"
    assert arms["fp32"] == "completed"
    assert "killed by signal 9" in result.stderr
    assert "--resume" in result.stderr


def test_a_dry_run_leaves_nothing_behind(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s"
    result = sweep(*tiny, "--dry-run", "--json", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [arm["name"] for arm in plan["arms"]][:4] == ["fp32", "bf16", "frozen", "e5m2-uniform"]
    assert plan["arms"][3]["config"]["precision"]["regime"] == "uniform"
    assert plan["predicted_stall"]["E7M0"]["long_run"] > plan["predicted_stall"]["E3M4"]["long_run"]
    assert plan["equivalent"] == ["E0M7 is 0.25 x E1M6"]
    assert plan["estimated_seconds"] > 0
    assert not out.exists()
    text = sweep(*tiny, "--dry-run", "--out", str(out)).stdout
    assert "e7m0-uniform" in text
    assert "Predicted stall" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--order", "e5m2,e9z9"], "e9z9"),
        (["no_such_config"], "no_such_config"),
        (["lerning_rate=1"], "learning_rate"),
        (["learning_rate=-1"], "learning_rate"),
        (["data.path=/no/such/file.txt"], "/no/such/file.txt"),
        (["--set", "learning_rate"], "--set"),
        (["--seeds", "x"], "--seeds"),
        (["--resume", "/no/such/sweep"], "/no/such/sweep"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(arguments: list[str], said: str, in_tmp_folder: Path) -> None:
    result = sweep(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(in_tmp_folder.glob("runs/*"))


def test_a_folder_in_use_is_never_written_over(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    (out / "thesis.md").write_text("years of work")
    result = sweep(*tiny, "--out", str(out))
    assert result.exit_code == 2
    assert "never overwritten" in result.stderr
    assert [p.name for p in out.iterdir()] == ["thesis.md"]


def test_a_resumed_sweep_takes_no_other_specification(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s"
    assert sweep(*tiny, "--order", "e7m0", "--no-retries", "--out", str(out), "-q").exit_code in (0, 1)
    result = sweep("--resume", str(out), "max_steps=9")
    assert result.exit_code == 2
    assert "max_steps=9" in result.stderr


def test_without_a_terminal_progress_is_plain_lines_on_stderr(tiny: list[str], tmp_path: Path) -> None:
    result = sweep(*tiny, "--order", "e7m0", "--no-retries", "--out", str(tmp_path / "s"))
    assert "starting e7m0-uniform" in result.stderr
    assert "\x1b" not in result.stderr + result.stdout
    assert "starting" not in result.stdout
