"""`altgrad train --resume` as a user meets it: what is said, the exit code, what is left of the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from altgrad_cli.runs.folder import RunDirectory, sole_writer
from tests.runs.test_resumption import contents, halve, without_steps
from tests.small import ARGUMENTS


def altgrad(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that collapsed at its fifth step, with a failure report."""
    out = tmp_path_factory.mktemp("runs") / "ended"
    fault = ["--inject", "nan@5:blocks.0.attn.c_attn:gradients", "nan_policy=first"]
    steps = ["max_steps=8", "runtime.evaluation_interval=4", "runtime.checkpoint_interval=3"]
    assert altgrad("train", *ARGUMENTS, *steps, *fault, "-q", "--out", out).exit_code == 3
    assert (out / "failure_report.md").is_file()
    return out


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    return shutil.copytree(ended, tmp_path / "run")


def refused(run: Path, *arguments: str) -> str:
    """What is said of a resume that exits with 2 and leaves every byte of the run as it was."""
    before = contents(run)
    result = altgrad("train", "--resume", run, *arguments)
    assert result.exit_code == 2, result.output
    assert contents(run) == before
    return result.stderr


def test_without_a_readable_checkpoint_the_damaged_ones_are_named(run: Path) -> None:
    names = sorted(path.name for path in (run / "checkpoints").iterdir() if "anomaly" not in path.name)
    for name in names:
        halve(run / "checkpoints" / name)
    for arguments in ([], ["-q"], ["max_steps=9", "inject=[]"]):
        said = refused(run, *arguments)
        assert all(name in said for name in names)
        assert f"hint: the run is left as it is; to begin it anew beside it: altgrad train {run}" in said


@pytest.mark.parametrize("override", ["model.n_embd=64", "max_steps=4", "lerning_rate=1"])
def test_a_refusal_changes_nothing_and_the_next_resume_works(run: Path, override: str) -> None:
    assert "error: " in refused(run, override, "inject=[]")
    assert altgrad("train", "--resume", run, "inject=[]", "-q").exit_code == 0


def test_only_the_newest_checkpoint_damaged_is_said_under_quiet_too(run: Path) -> None:
    halve(run / "checkpoints" / "step_000005.pt")
    result = altgrad("train", "--resume", run, "inject=[]", "-q")
    assert result.exit_code == 0, result.stderr
    assert "warning: step_000005.pt cannot be gone on from" in result.stderr
    assert "warning: the run goes on from step_000003.pt (step 3)" in result.stderr


def test_the_report_of_a_repaired_run_is_of_the_run_as_it_now_is(run: Path) -> None:
    (run / "failure_report.md").write_text("the run collapsed at 5 of 8 steps")
    (run / "failure_report" / "old.svg").touch()
    result = altgrad("train", "--resume", run, "inject=[]", "precision.regime=fp32", "max_steps=10", "-q")
    assert result.exit_code == 0, result.stderr
    page = re.sub("<[^>]*>", "", (run / "failure_report.md").read_text())
    assert "10 of 10 steps" in page
    assert "collapsed" not in page
    assert not (run / "failure_report" / "old.svg").exists()


def test_a_record_with_a_hole_is_never_averaged_or_verified(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert altgrad("report", run, "--markdown", page).exit_code == 0
    without_steps(2)(run)
    for arguments in (["report", run], ["report", "--verify", page], ["train", "--resume", run]):
        result = altgrad(*arguments)
        assert result.exit_code == 2, result.output
        assert "step 2 is missing" in result.stderr


def test_a_run_of_a_later_schema_is_refused_by_name_wherever_it_is_read(run: Path) -> None:
    summary = run / "run.json"
    summary.write_text('{"schema": "altgrad.run/9"}')
    for arguments in (["report", run], ["train", "--resume", run], ["train", "--resume", run, "max_steps=9"]):
        before = contents(run)
        result = altgrad(*arguments)
        assert result.exit_code == 2, result.output
        assert f"{summary} is of schema 'altgrad.run/9'" in result.stderr.replace("\n", "")
        assert contents(run) == before
    listed = json.loads(altgrad("ls", run, "--json").stdout)["entries"]
    assert [each["outcome"] for each in listed] == ["damaged"]
    assert "altgrad.run/9" in listed[0]["detail"]
    summary.write_text('{"schema": "altg')  # the log says it all
    assert altgrad("report", run).exit_code == 0


def test_a_run_that_is_being_written_is_refused_before_it_is_read(run: Path) -> None:
    (run / "events.jsonl").write_text("not even looked at")
    with sole_writer(RunDirectory(run)):
        assert "another process is writing" in refused(run, "max_steps=9")


def test_a_pipe_is_no_report_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.md")
    result = altgrad("report", "--verify", tmp_path / "page.md")
    assert result.exit_code == 2
    assert "it is a pipe, not a file" in result.stderr.lower()
