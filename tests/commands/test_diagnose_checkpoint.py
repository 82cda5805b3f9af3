"""`altgrad diagnose-checkpoint` as a user meets it: screen, Markdown, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from altgrad_cli.training.engine import train
from tests.small import small

SETTINGS = (
    "max_steps=3",
    "runtime.checkpoint_interval=2",
    "nan_policy=first",
    "precision.regime=standard",
    "fp8_format=E5M2",
    "precision.overflow=ieee",
    "precision.scaling.margin=16",
    "inject=amax@3:blocks.1.attn.c_proj:gradients",
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run whose third step overflows where a fault was planted."""
    folder = tmp_path_factory.mktemp("run")
    for _ in train(small(*SETTINGS), run_dir=folder):
        pass
    return folder / "checkpoints"


@pytest.fixture
def anomaly(checkpoints: Path) -> Path:
    return checkpoints / "anomaly_step_3.pt"


def altgrad(*arguments: object) -> Result:
    runner = CliRunner(env={"COLUMNS": "160"})
    return runner.invoke(app, ["diagnose-checkpoint", *map(str, arguments)])


def test_the_first_screen_says_what_where_why_and_what_next(anomaly: Path) -> None:
    done = altgrad(anomaly, "--replay")
    assert done.exit_code == 0, done.stderr
    screen = done.stdout.split("Findings")[0]
    assert len(screen.splitlines()) <= 24
    for words in (
        "FAILED: not finite",
        "step 3: gradients of blocks.1.attn.c_proj became",
        "inputs finite: the rounding made it out of a finite value",
        "mechanism gradient fidelity",
        "with gradients left in float32 it survives",
        "bit for bit in a new process",
        "this run has planted faults: amax@3:blocks.1.attn.c_proj:gradients",
        "altgrad diagnose-checkpoint",
    ):
        assert words in screen, words
    for title in ("Findings", "Trust", "Lead time", "Layers, worst first", "Optimizer state", "Batch"):
        assert f"\n{title} ─" in done.stdout


def test_a_run_s_folder_means_its_first_anomaly(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    assert "holds no checkpoint" in altgrad(tmp_path).stderr
    (tmp_path / "checkpoints").symlink_to(checkpoints)
    done = altgrad(tmp_path)
    assert (done.exit_code, "anomaly_step_3.pt" in done.stderr) == (0, True)
    assert "FAILED: not finite" in done.stdout


def test_json_is_one_strict_document_with_the_keys_of_the_schema(anomaly: Path) -> None:
    done = altgrad(anomaly, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"bare {word}"))
    assert document["schema"] == "altgrad.diagnose-checkpoint/1"
    assert document["failure"]["class"] == "nonfinite"
    assert document["failure"]["step"] == 3
    first = document["first_nonfinite"]
    assert {"step", "phase", "module", "role", "index", "input_finite"} <= first.keys()
    assert (first["module"], first["role"]) == ("blocks.1.attn.c_proj", "gradients")
    assert {"ran", "bit_exact", "first_difference"} <= document["replay"].keys()
    assert {
        "trust",
        "mechanism",
        "layers",
        "counterfactuals",
        "minimal_bf16_layers",
        "findings",
    } <= document.keys()


def test_what_if_tables_every_change(anomaly: Path, tmp_path: Path) -> None:
    report = tmp_path / "autopsy.md"
    done = altgrad(anomaly, "--what-if", "--markdown", report)
    assert done.exit_code == 0, done.stderr
    assert "saved by" in done.stdout
    assert "saturating instead of inf" in done.stdout
    assert "in BF16   blocks.1.attn.c_proj" in done.stdout
    assert f"markdown: {report}" in done.stderr
    text = report.read_text()
    assert text.startswith("# FAILED: not finite")
    assert "<summary>The same step in every format</summary>" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 80
    assert "E7M0" in text


def test_a_healthy_checkpoint_is_healthy_and_exits_0(checkpoints: Path) -> None:
    done = altgrad(checkpoints / "step_000002.pt")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("healthy")


def test_a_foreign_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"evil\x1b[31m|name": torch.tensor([1.0, float("nan")])}, path)
    done = altgrad(path, "--format", "E3M4", "--markdown", tmp_path / "x.md")
    assert done.exit_code == 0, done.stderr
    assert "\x1b[31m" not in done.stdout
    assert "not finite" in done.stdout
    assert "evil\\x1b\\[31m\\|name" in (tmp_path / "x.md").read_text().replace("\\\\", "\\")


@pytest.mark.parametrize("kind", ["absent", "empty", "folder", "text", "cut", "pickle"])
def test_what_is_no_checkpoint_exits_2_with_one_error(anomaly: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    if kind == "folder":
        path = anomaly.parent
    elif kind == "cut":
        path.write_bytes(anomaly.read_bytes()[:-1000])
    elif kind == "pickle":
        path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    elif kind != "absent":
        path.write_text("" if kind == "empty" else "hello, I am a checkpoint")
    done = altgrad(path)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    if kind == "folder":
        assert "it holds: anomaly_step_3.pt" in done.stderr


def test_options_that_do_not_fit_the_file_are_usage_errors(anomaly: Path, tmp_path: Path) -> None:
    assert "is for state dicts" in altgrad(anomaly, "--format", "E5M2").stderr
    done = altgrad(anomaly, "--layer", "c_fd")
    assert done.exit_code == 2
    assert "no layer is called 'c_fd'" in done.stderr
    done = altgrad(anomaly, "--against", tmp_path)
    assert done.exit_code == 2
    assert "events.jsonl" in done.stderr
    done = altgrad(anomaly, "--markdown", anomaly / "x.md")
    assert done.exit_code == 2
    assert "cannot write to" in done.stderr
