"""Every way to ask a run to stop leaves it with a checkpoint, however the process was started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.small import ARGUMENTS


def started(shell: str, *arguments: str) -> subprocess.Popen[str]:
    """``python -m altgrad_cli`` with ``arguments``, as ``shell`` starts it."""
    command = ["sh", "-c", f'{shell} "$0" "$@"', sys.executable, "-m", "altgrad_cli", *arguments]
    # Under nohup the tests themselves ignore SIGHUP, and what they start would inherit that.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hears_hang_ups
    )


def _hears_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def stopped(running: subprocess.Popen[str], number: signal.Signals, runs: Sequence[Path]) -> str:
    """What ``running`` said on stderr, told to stop once every run had begun; it ended as by Ctrl-C."""
    logs = [run / "events.jsonl" for run in runs]
    while not all(log.exists() and log.stat().st_size > 10_000 for log in logs):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(number)
    _, talk = running.communicate(timeout=120)
    assert running.returncode == 130, talk
    return talk


@pytest.mark.parametrize(
    ("shell", "number"),
    [
        ("exec", signal.SIGHUP),
        ("exec", signal.SIGTERM),
        ("trap '' INT; exec", signal.SIGINT),  # what a script's shell does to what is behind a "&"
    ],
)
def test_a_run_that_is_asked_to_stop_can_go_on(tmp_path: Path, shell: str, number: signal.Signals) -> None:
    out = tmp_path / "run"
    running = started(shell, "train", *ARGUMENTS, "max_steps=100000", "-q", "--out", str(out))
    talk = stopped(running, number, [out])
    assert f"altgrad train --resume {out}" in talk
    assert list((out / "checkpoints").glob("step_*.pt"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_arms_of_a_sweep_that_is_asked_to_stop_can_go_on(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "sweep"
    words = ["max_steps=100000", "--order=e5m2", "--jobs=2", "-q", "--out", str(out)]
    running = started("exec", "sweep", *ARGUMENTS, *words)
    runs = [out / arm for arm in ("fp32", "frozen")]
    talk = stopped(running, number, runs)
    assert f"interrupted; to go on: altgrad sweep --resume {out}" in talk
    assert all(list((run / "checkpoints").glob("step_*.pt")) for run in runs)


def test_nohup_is_meant(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = started("trap '' HUP; exec", "train", *ARGUMENTS, "max_steps=30", "-q", "--out", str(out))
    while not (out / "events.jsonl").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGHUP)
    _, talk = running.communicate(timeout=120)
    assert running.returncode == 0, talk
