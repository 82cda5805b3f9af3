"""The examples are complete: each trains, resumes, is replayed and swept as a user's own model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.checkpoints.file import content_hash, read_checkpoint
from altgrad_cli.commands.app import app
from tests.conftest import REPOSITORY, needed
from tests.small import LAW

EXAMPLES = REPOSITORY / "examples"
NAMES = ("cnn", "gpt2", "llama")
TINY = (
    *(f"data.path={LAW}", "model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.block_size=16"),
    *("batch_size=4", "max_steps=5", "optimizer.warmup_steps=0", "learning_rate=1e-3", "fp8_format=E3M4"),
    *("runtime.evaluation_interval=5", "runtime.evaluation_batches=2", "runtime.checkpoint_interval=2"),
)


def subject_of(name: str) -> str:
    if name == "gpt2":
        needed("transformers")
    return f"{EXAMPLES / name}.py:subject"


def altgrad(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_there_are_these_and_each_is_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert [path.stem for path in files] == sorted(NAMES)
    assert all(len(path.read_text("utf-8").splitlines()) < 80 for path in files)


def test_the_readmes_own_is_complete(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    path = tmp_path / "my_model.py"
    path.write_text(block, "utf-8")
    done = altgrad("train", f"subject={path}:make", *TINY, "--json", "-q", "--out", str(tmp_path / "run"))
    assert json.loads(done.stdout)["outcome"] == "completed"


@pytest.mark.parametrize("regime", ["uniform", "standard"])
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_resumes_and_is_replayed_bit_for_bit(tmp_path: Path, name: str, regime: str) -> None:
    subject = subject_of(name)
    settings = (f"subject={subject}", *TINY, f"precision.regime={regime}", "runtime.capture_at=[3]")
    altgrad("train", *settings, "--out", str(tmp_path / "whole"), "-q")
    whole = tmp_path / "whole/checkpoints"

    half = tmp_path / "half"
    altgrad("train", *settings, "max_steps=4", "--out", str(half), "-q")
    refused = altgrad("train", "--resume", str(half), "max_steps=5", code=2)
    assert f"add: subject={subject}" in refused.stderr
    altgrad("train", "--resume", str(half), "max_steps=5", f"subject={subject}", "-q")
    ends = [folder / "checkpoints/step_000005.pt" for folder in (tmp_path / "whole", half)]
    assert len({content_hash(read_checkpoint(path)) for path in ends}) == 1

    anomaly = str(whole / "anomaly_step_3.pt")
    refused = altgrad("diagnose-checkpoint", anomaly, "--replay", code=2)
    assert f"add: --subject {subject}" in refused.stderr
    named = ("--subject", subject, "--data", str(LAW))
    found = json.loads(altgrad("diagnose-checkpoint", anomaly, "--replay", "--json", *named).stdout)
    replay = found["replay"]
    assert replay["bit_exact"] is True, replay
    assert replay["compared"] > 20


@pytest.mark.parametrize(
    "name", ["cnn", *(pytest.param(name, marks=pytest.mark.campaign) for name in ("gpt2", "llama"))]
)
def test_two_formats_are_swept_with_their_controls(tmp_path: Path, name: str) -> None:
    """As a user does it: in another process, which starts workers of its own."""
    subject, out = subject_of(name), tmp_path / "sweep"
    command = [sys.executable, "-m", "altgrad_cli", "sweep", f"subject={subject}", *TINY, "max_steps=3"]
    options = ["--order=e5m2,e3m4", "--no-retries", "--jobs=1", "--json", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    arms = json.loads(done.stdout)["arms"]
    assert {arm["name"] for arm in arms} == {"fp32", "bf16", "frozen", "e5m2-uniform", "e3m4-uniform"}
    assert all(arm["outcome"] == "completed" for arm in arms)
    assert "add: subject=" in altgrad("sweep", "--resume", str(out), code=2).stderr
    altgrad("sweep", "--resume", str(out), f"subject={subject}", "-q")


def test_a_replay_says_that_the_code_was_changed_since(tmp_path: Path) -> None:
    path, run = tmp_path / "own_cnn.py", tmp_path / "run"
    path.write_text((EXAMPLES / "cnn.py").read_text("utf-8"), "utf-8")
    subject = f"{path}:subject"
    altgrad("train", f"subject={subject}", *TINY, "runtime.capture_at=[2]", "--out", str(run), "-q")
    command = ("diagnose-checkpoint", str(run), "--json", "--subject", subject)
    same = json.loads(altgrad(*command).stdout)
    assert "subject_source" not in same["trust"]["environment_differences"]
    path.write_text(path.read_text("utf-8") + "# another line\n", "utf-8")
    changed = json.loads(altgrad(*command).stdout)
    assert "subject_source" in changed["trust"]["environment_differences"]
    assert sum("its code was changed" in finding["text"] for finding in changed["findings"]) == 1
