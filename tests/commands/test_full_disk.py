"""A disk that is full: one plain error with the path, and exit 1 where what was asked for is not there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altgrad_cli.checkpoints import file as checkpoint_file
from altgrad_cli.commands.app import app
from altgrad_cli.errors import WriteError
from tests.small import ARGUMENTS


@pytest.mark.parametrize(
    "arguments", [["inspect-format", "E5M2", "--json"], ["inspect-format", "E5M2", "--codes"]]
)
def test_a_full_stdout_is_one_plain_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "altgrad_cli", *arguments]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: cannot write the output: no space left on device\n"


@pytest.mark.parametrize("lost", ["step_", "anomaly_"])
def test_a_run_whose_checkpoints_are_lost_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    write = checkpoint_file.write_whole

    def full(path: Path, content: Any) -> None:
        if path.name.startswith(lost):
            raise WriteError(f"cannot write {path}: {os.strerror(errno.ENOSPC).lower()}")
        write(path, content)

    monkeypatch.setattr(checkpoint_file, "write_whole", full)
    out = tmp_path / "run"
    steps = ["max_steps=4", "--capture-at", "2", "precision.regime=fp32", "--out", str(out)]
    result = CliRunner().invoke(app, ["train", *ARGUMENTS, *steps, "-q"])
    assert result.exit_code == 1, result.output
    assert "  not written: " in result.stdout
    assert f"cannot write {out / 'checkpoints' / lost}" in result.stdout
    assert "no space left on device" in result.stdout
    again = CliRunner().invoke(app, ["train", "--resume", str(out), "--json"])
    if lost == "anomaly_":
        assert again.exit_code == 1
        assert "requested checkpoint of step" in json.loads(again.stdout)["lost_checkpoints"][0]
