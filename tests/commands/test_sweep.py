"""`altgrad sweep` as a user meets it: the table, its JSON, mistakes, and every way to be interrupted."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands import sweep as sweep_module
from altgrad_cli.commands.app import app
from altgrad_cli.runs.folder import RunDirectory, sole_writer
from altgrad_cli.sweeps.specification import SweepSpec
from tests.runs.test_resumption import contents, without_steps
from tests.small import ARGUMENTS, LAW, small

KEYS = {
    *("name", "kind", "retry_of", "format", "regime", "seed", "outcome", "collapse_class", "collapse_step"),
    *("final_loss", "val_loss", "recovered_fraction", "stall_rate", "overflow_rate", "underflow_rate"),
    *("nonfinite_steps", "verdict", "run_dir"),
}


TINY = (
    *ARGUMENTS,
    "max_steps=30",
    "learning_rate=3e-5",
    "runtime.evaluation_interval=10",
    "runtime.checkpoint_interval=7",
    "--order=e7m0",
    "--no-retries",
)
"""Arguments of a sweep of four arms that take a second each."""


def sweep(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A sweep that nothing disturbed, with two jobs: its folder and what it said."""
    out = tmp_path_factory.mktemp("sweeps") / "whole"
    result = sweep(*TINY, "--jobs", "2", "--json", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    return out, result


def without_place(result: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in arm.items() if k != "run_dir"} for arm in json.loads(result)["arms"]]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "altgrad_cli", "sweep", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_json_has_every_arm_with_its_measurements(whole: tuple[Path, Result]) -> None:
    document = json.loads(whole[1].stdout)
    assert document["schema"] == "altgrad.sweep/1"
    arms = {arm["name"]: arm for arm in document["arms"]}
    assert list(arms) == ["fp32", "frozen", "bf16", "e7m0-uniform"]
    for arm in arms.values():
        assert set(arm) >= KEYS
        assert isinstance(arm["val_loss"], float)
        assert (Path(arm["run_dir"]) / "events.jsonl").is_file()
    gap = arms["frozen"]["val_loss"] - arms["fp32"]["val_loss"]
    assert gap < 0.1, "so short a run cannot tell its controls apart"
    for arm in arms.values():
        assert (arm["verdict"], arm["recovered_fraction"]) == (None, None)
        reason = f"fp32 and frozen are {gap:.3f} nats apart, less than 0.1 at step 30"
        assert arm["no_verdict_because"] == reason
    assert arms["fp32"]["stall_rate"] is None
    assert arms["e7m0-uniform"]["stall_rate"] > 0.5


def test_the_table_is_computed_from_events_alone(whole: tuple[Path, Result]) -> None:
    out, first = whole
    for run in out.glob("*/run.json"):
        run.unlink()
    again = sweep("--resume", str(out), "--json", "-q")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    table = sweep("--resume", str(out), "-q").stdout
    for arm in json.loads(first.stdout)["arms"]:
        row = next(line for line in table.splitlines() if line.startswith(arm["name"]))
        assert f"{arm['val_loss']:.3f}" in row
    assert list(out.glob("*/run.json"))


def test_without_a_terminal_progress_is_plain_lines_on_stderr(whole: tuple[Path, Result]) -> None:
    _, result = whole
    assert "starting e7m0-uniform" in result.stderr
    assert "\x1b" not in result.stderr + result.stdout
    assert "starting" not in result.stdout


def test_a_resumed_sweep_takes_no_other_specification(whole: tuple[Path, Result]) -> None:
    result = sweep("--resume", str(whole[0]), "max_steps=9")
    assert result.exit_code == 2
    assert "max_steps=9" in result.stderr


def test_a_sweep_that_is_being_carried_out_is_refused_at_once(whole: tuple[Path, Result]) -> None:
    with sole_writer(RunDirectory(whole[0])):
        result = sweep("--resume", str(whole[0]))
    assert result.exit_code == 2
    assert "another process is writing" in result.stderr


def test_a_log_with_a_hole_is_named_with_its_arm_and_step(whole: tuple[Path, Result], tmp_path: Path) -> None:
    out = shutil.copytree(whole[0], tmp_path / "whole")
    without_steps(3)(out / "bf16")
    before = contents(out / "bf16")
    reported = CliRunner().invoke(app, ["report", str(out)])
    resumed = sweep("--resume", str(out))
    assert (reported.exit_code, resumed.exit_code) == (2, 1)
    for result in (reported, resumed):
        assert "bf16/events.jsonl: step 3 is missing" in result.stderr
    assert contents(out / "bf16") == before


def test_an_arm_of_a_later_schema_is_refused_by_name(whole: tuple[Path, Result], tmp_path: Path) -> None:
    out = shutil.copytree(whole[0], tmp_path / "whole")
    (out / "bf16" / "run.json").write_text('{"schema": "altgrad.run/9"}')
    before = contents(out)
    for result in (CliRunner().invoke(app, ["report", str(out)]), sweep("--resume", str(out))):
        assert result.exit_code == 2, result.output
        assert "bf16/run.json is of schema 'altgrad.run/9'" in result.stderr
    assert contents(out) == before


def test_a_sweep_stopped_by_ctrl_c_goes_on_to_the_same_table(
    whole: tuple[Path, Result], tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    running = start(*TINY, "--jobs", "1", "--json", "-q", "--out", str(out))
    wait_for(lambda: (out / "bf16" / "events.jsonl").exists())
    running.send_signal(signal.SIGINT)
    _, talk = running.communicate(timeout=120)
    assert running.returncode == 130, talk
    assert f"altgrad sweep --resume {out}" in talk
    assert json.loads((out / "sweep.json").read_text())["state"] == "interrupted"
    finished = (out / "fp32" / "events.jsonl").read_bytes()
    resumed = sweep("--resume", str(out), "--json", "-q")
    assert resumed.exit_code == 0, resumed.stderr
    assert without_place(resumed.stdout) == without_place(whole[1].stdout)
    assert (out / "fp32" / "events.jsonl").read_bytes() == finished


def test_a_killed_worker_and_then_a_killed_sweep_change_nothing(
    whole: tuple[Path, Result], tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    running = start(*TINY, "--jobs", "1", "--json", "--out", str(out))
    wait_for(lambda: (out / "fp32" / "events.jsonl").exists())
    os.kill(worker_of(running.pid), signal.SIGKILL)
    wait_for(lambda: (out / "frozen" / "events.jsonl").exists())
    running.kill()
    _, talk = running.communicate(timeout=60)
    assert "fp32: the worker process was killed by signal 9; it is continued" in talk
    resumed = sweep("--resume", str(out), "--json", "-q")
    assert resumed.exit_code == 0, resumed.stderr
    assert without_place(resumed.stdout) == without_place(whole[1].stdout)


def worker_of(pid: int) -> int:
    """The process in which the sweep ``pid`` runs its arms."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return next(
        int(child)
        for child in children.stdout.split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    )


def test_a_collapse_is_a_result_and_a_dying_arm_an_error(tmp_path: Path) -> None:
    """E7M0 stops at its first NaN; E5M2, a baseline, is patient, and so reaches the fault that kills it."""
    out = tmp_path / "s"
    faults = ["inject=nan@3:blocks.0.attn.c_attn:gradients,kill@5", "--order", "e7m0,e5m2"]
    result = sweep(*TINY, *faults, "--out", str(out), "--json")
    assert result.exit_code == 1
    arms = {arm["name"]: arm for arm in json.loads(result.stdout)["arms"]}
    failing = arms["e7m0-uniform"]
    assert (failing["outcome"], failing["collapse_class"]) == ("collapsed", "nonfinite")
    assert (failing["collapse_step"], failing["nonfinite_steps"], failing["verdict"]) == (3, 1, "failed")
    assert "non-finite" in (out / "e7m0-uniform" / "failure_report.md").read_text().lower()
    assert arms["e5m2-uniform"]["outcome"] == "unfinished"
    assert arms["fp32"]["outcome"] == "completed"
    assert "e5m2-uniform: the worker process was killed by signal 9 again" in result.stderr
    assert f"--resume {out}" in result.stderr


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "s"
    result = sweep(
        *TINY,
        "learning_rate=6e-4",
        "--order=e5m2,e3m4,e1m6,e0m7,e7m0",
        "--dry-run",
        "--json",
        "--out",
        str(out),
    )
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [arm["name"] for arm in plan["arms"]][:4] == ["fp32", "frozen", "bf16", "e5m2-uniform"]
    assert plan["arms"][3]["config"]["precision"]["regime"] == "uniform"
    assert plan["predicted_stall"]["E7M0"]["long_run"] > plan["predicted_stall"]["E3M4"]["long_run"]
    assert plan["equivalent"] == ["E0M7 is 0.25 x E1M6"]
    assert plan["estimated_seconds"] > 0
    assert not out.exists()
    text = sweep(*TINY, "--dry-run", "--out", str(out)).stdout
    assert "e7m0-uniform" in text
    assert "Predicted stall" in text


def test_a_dry_run_that_tunes_says_how_many_runs_there_are_and_may_be() -> None:
    asked = ["--rules", "adamw,adamw+stochastic,lion", "--seeds", "42,43", "--dry-run"]
    given = [word for word in TINY if not word.startswith("learning_rate")]
    plan = json.loads(sweep(*asked, "--json", "--tune", *given).stdout)
    arms = (3 + 2) + 3  # controls of two rules, and a format with three
    assert len(plan["arms"]) == 3 * arms * 2  # every rate with every seed
    assert (plan["runs"], plan["runs_at_most"]) == ((3 + 1) * arms * 2, (3 + 1 + 3) * arms * 2)
    assert plan["estimated_seconds"] < plan["estimated_seconds_at_most"]
    rates = {(arm["rule"], arm["learning_rate"]) for arm in plan["arms"]}
    assert rates == {("adamw", 1.9e-4), ("adamw", 6e-4), ("adamw", 1.9e-3)} | {
        ("lion", 6.3e-5), ("lion", 2e-4), ("lion", 6.3e-4),
    }  # fmt: skip
    text = sweep(*asked, *TINY, "--tune", "1e-3,2e-3").stdout
    assert "Runs: 32 to choose rates, 16 at the best ones" in text
    assert "tried at 1e-3, 2e-3, then run at the best" in " ".join(text.split())  # in one line or in two


@pytest.mark.parametrize(
    "asked",
    [
        SweepSpec(base=small(), rules=("adamw", "lion+stochastic"), tune=(), own_rates=False, seeds=(1, 2)),
        SweepSpec(base=small("learning_rate=6e-4"), tune=(2e-4, 6e-4), order=("E7M0",)),
        SweepSpec(base=small("learning_rate=6e-4"), rules=("lion",), own_rates=False),
        SweepSpec(base=small("data.path=null"), texts=("embedded", str(LAW)), own_rates=False),
    ],
)
def test_the_command_line_asks_for_the_same_sweep(asked: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[SweepSpec] = []
    monkeypatch.setattr(sweep_module, "show_sweep_plan", lambda spec, *_, **__: told.append(spec))
    result = CliRunner().invoke(app, [*shlex.split(asked.command_line())[1:], "--dry-run"])
    assert result.exit_code == 0, result.stderr
    assert told == [asked]


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
        (["--rules", "adamw,ecco"], "did you mean eco?"),
        (["--rules", "adamw,adamw"], "named twice: adamw"),
        (["--tune", "1e-3,fast"], "not a list of learning rates: '1e-3,fast'"),
        (["--tune", "1e-3,0.001"], "named twice: 0.001"),
        (["--tune", "-1e-3"], "a positive number"),
        (["--tune", "--set", "learning_rate=1e-3,2e-3"], "use --tune"),
        (["--tune", "no_such_config"], "no_such_config"),
        (["--tune", "data.evaluate_on=final"], "leave data.evaluate_on out"),
        (["--texts", "embedded,embedded"], "named twice: embedded"),
        (["--texts", "embedded,/no/such/file.txt"], "/no/such/file.txt"),
        (["--texts", "embedded", "data.path=law.txt"], "name it in --texts"),
        (["--texts", "embedded", "--set", "data.path=a.txt,b.txt"], "use --texts"),
        (["--resume", "runs", "--tune"], "runs is not the folder of a sweep"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(arguments: list[str], said: str, in_tmp_folder: Path) -> None:
    result = sweep(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(in_tmp_folder.glob("runs/*"))


def test_a_folder_in_use_is_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    (out / "thesis.md").write_text("years of work")
    result = sweep(*TINY, "--out", str(out))
    assert result.exit_code == 2
    assert "never overwritten" in result.stderr
    assert [p.name for p in out.iterdir()] == ["thesis.md"]
