"""`altgrad report` as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from tests.reporting.recorded import config, record, record_sweep


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_sweep(tmp_path_factory.mktemp("recorded") / "sweep")


def test_a_sweep_in_the_terminal(sweep: Path) -> None:
    result = run(sweep)
    assert result.exit_code == 0
    assert "Formats compared: sweep" in result.stdout
    assert "stall_collapse" in result.stdout
    assert "optimizer update" in result.stdout


def test_one_run_gets_its_failure_report(sweep: Path) -> None:
    result = run(sweep / "e7m0-uniform")
    assert result.exit_code == 0
    assert result.stdout.startswith("Failure report: e7m0-uniform")
    assert "altgrad sweep --attribute" not in result.stdout, "its sweep has the runs that tell the stage"


def test_alone_it_means_the_newest(in_tmp_folder: Path) -> None:
    for age, name in ((100, "old"), (0, "new")):
        folder = record(in_tmp_folder / "runs" / name, config(), floor=2.5, stall=0.9, transfer=0.9)
        when = os.stat(folder / "events.jsonl").st_mtime - age  # noqa: PTH116
        os.utime(folder / "events.jsonl", (when, when))
    result = run()
    assert result.exit_code == 0
    assert "report: new" in result.stdout.splitlines()[0]


def test_nothing_there_is_said_with_a_hint(in_tmp_folder: Path) -> None:
    result = run()
    assert result.exit_code == 2
    assert "hint:" in result.stderr
    result = run("no/such/folder")
    assert result.exit_code == 2
    assert "neither a run nor a sweep: no/such/folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_files_are_written_and_named_on_stderr(sweep: Path, tmp_path: Path) -> None:
    result = run(
        sweep / "e5m2-uniform", "--markdown", tmp_path / "out" / "r.md", "--html", tmp_path / "out" / "r.html"
    )
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"wrote {tmp_path / 'out' / 'r.md'}" in result.stderr
    assert (tmp_path / "out" / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "out" / "r" / "loss.png").is_file()


def test_verify_exits_1_when_a_number_was_changed(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    assert run(sweep, "--markdown", path).exit_code == 0
    result = run("--verify", path)
    assert result.exit_code == 0
    assert "all agree with the logs" in result.stdout
    text = path.read_text()
    assert ">0.1</span>" in text
    path.write_text(text.replace(">0.1</span>", ">0.9</span>", 1))
    result = run("--verify", path)
    assert result.exit_code == 1
    assert "printed 0.9, the log gives 0.1 (e7m0-uniform: recovered_fraction)" in result.stdout
    document = json.loads(run("--verify", path, "--json").stdout)
    assert document["schema"] == "altgrad.report-verification/1"
    assert len(document["differences"]) == 1
    assert document["checked"] > 100


def test_json_is_one_document_on_stdout(sweep: Path) -> None:
    document = json.loads(run(sweep, "--json").stdout)
    assert document["schema"] == "altgrad.report/1"
    assert document["sections"][0]["title"] == "Verdicts"


def test_mistakes_exit_2(sweep: Path, tmp_path: Path) -> None:
    assert run(sweep, "--verify", tmp_path / "x.md", "--html", tmp_path / "y.html").exit_code == 2
    assert run(sweep, "--markdown", tmp_path).exit_code == 2
    (tmp_path / "file").write_text("")
    result = run(sweep, "--html", tmp_path / "file" / "below.html")
    assert result.exit_code == 2
    assert "cannot write to" in result.stderr
    damaged = record(tmp_path / "damaged", config(), floor=2.5, steps=5)
    events = damaged / "events.jsonl"
    events.write_text(events.read_text().replace('"step": 3,', '"step": 3', 1))
    result = run(damaged)
    assert result.exit_code == 2
    assert "damaged line" in result.stderr
