"""`torchrun -m altgrad_cli train`: one voice, one folder, one end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.small import ARGUMENTS

REPOSITORY = Path(__file__).resolve().parents[2]
STANDARD = ("precision.regime=standard", "fp8_format=E3M4")


def command(count: int, *words: str) -> list[str]:
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return [sys.executable, *run, "-m", "altgrad_cli", *words]


def start(count: int, *words: str, act: str = "train") -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command(count, act, *words), cwd=REPOSITORY, env={**os.environ, "CI": ""}, **pipes
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "events.jsonl").read_text("utf-8").splitlines())
    found = [line for line in lines if line["event"] == "step"]
    for line in found:
        line["metrics"].pop("tokens_per_second")
    return found


def test_a_rank_that_is_killed_ends_all_with_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fault = ("--inject", "kill@5@1", "--out", str(folder))
    code, _, err = ended(start(2, *ARGUMENTS, *STANDARD, *fault))
    assert code == 1
    assert err.count("error: another rank of this run has gone") == 1
    assert err.count("step 1/8") == 1  # nobody but rank 0 talks
    assert [line["step"] for line in steps(folder)] == [1, 2, 3, 4]
    assert (folder / "checkpoints" / "step_000003.pt").exists()


def test_a_sweep_is_refused_by_one_voice(tmp_path: Path) -> None:
    code, out, err = ended(start(2, *ARGUMENTS, "--out", str(tmp_path / "sweep"), act="sweep"))
    assert (code, out) == (1, "")  # torchrun's own code
    assert err.count("error: torchrun shares one run among its processes, and a sweep is many runs") == 1
    assert err.count("hint: leave torchrun out: --jobs N") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.campaign
def test_one_rank_is_the_plain_run_and_two_are_the_same_twice(tmp_path: Path) -> None:
    plain = [
        sys.executable,
        "-m",
        "altgrad_cli",
        "train",
        *ARGUMENTS,
        *STANDARD,
        "--out",
        str(tmp_path / "0"),
    ]
    subprocess.run(plain, cwd=REPOSITORY, check=True, capture_output=True)
    for name, count in (("1", 1), ("2a", 2), ("2b", 2)):
        code, _, err = ended(start(count, *ARGUMENTS, *STANDARD, "--out", str(tmp_path / name)))
        assert code == 0, err
    assert steps(tmp_path / "0") == steps(tmp_path / "1")
    assert steps(tmp_path / "2a") == steps(tmp_path / "2b") != steps(tmp_path / "1")


@pytest.mark.campaign
def test_a_stop_writes_a_checkpoint_that_four_ranks_go_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(2, *ARGUMENTS, *STANDARD, "max_steps=20000", "--out", str(folder))
    log = folder / "events.jsonl"
    while not (log.exists() and '"step"' in log.read_text("utf-8")):
        time.sleep(0.5)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, _, err = ended(process)
    assert err.count("interrupted; to go on") == 1
    last = steps(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"step_{last:06d}.pt").exists()
    code, _, err = ended(start(4, "--resume", str(folder), f"max_steps={last + 4}"))
    assert code == 0, err
    assert [line["step"] for line in steps(folder)] == list(range(1, last + 5))


@pytest.mark.campaign
def test_the_verdicts_of_the_default_sweeps_runs_are_those_of_one_process(tmp_path: Path) -> None:
    """Each arm of a small sweep by two ranks: its end and the order of the losses are the same."""
    ends: dict[int, dict[str, tuple[str, float]]] = {1: {}, 2: {}}
    arms = {"fp32": ("precision.regime=fp32",), "frozen": ("precision.regime=frozen",)}
    arms |= {name: ("precision.regime=uniform", f"fp8_format={name}") for name in ("E5M2", "E3M4", "E7M0")}
    for count, found in ends.items():
        for name, settings in arms.items():
            folder = tmp_path / f"{count}-{name}"
            words = (*ARGUMENTS, *settings, "max_steps=200", "--json", "--out", str(folder))
            code, out, err = ended(start(count, *words))
            assert code in (0, 1), err
            result = json.loads(out)
            found[name] = (result["outcome"], float(result["validation_loss"]))
    one, two = ends.values()
    assert {name: end for name, (end, _) in one.items()} == {name: end for name, (end, _) in two.items()}
    assert sorted(one, key=lambda name: one[name][1]) == sorted(two, key=lambda name: two[name][1])
