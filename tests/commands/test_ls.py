"""`altgrad ls` and `altgrad configs`: what lies in a folder, damaged as it may be, and what ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from altgrad_cli.runs.folder import RunDirectory, sole_writer


def altgrad(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def write_run(path: Path, *, ending: str | None = "completed", written: int = 0) -> Path:
    """A run's folder as training leaves it after three steps, last written to at second ``written``."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 1\n")
    lines: list[dict[str, Any]] = [{"event": "run_started", "step": 0, "config": {}, "layers": []}]
    of_a_step = {"layers": {}, "committed": True}
    lines += [{"event": "step", "step": n, "metrics": {"loss": 3.0 - n}, **of_a_step} for n in (1, 2, 3)]
    lines += [{"event": "evaluated", "step": 3, "validation_loss": 0.25, "validation_loss_master": None}]
    end = {"event": "run_ended", "step": 3, "reason": "", "collapse": None, "formats": []}
    lines += [{**end, "outcome": ending}] if ending else []
    (path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("events.jsonl", "config.yaml"):
        os.utime(path / name, (written, written))
    return path


def entries(*arguments: str) -> dict[str, dict[str, object]]:
    """Path -> entry of ``ls --json``, in its order."""
    result = altgrad("ls", *arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == "altgrad.ls/1"
    return {entry["path"]: entry for entry in document["entries"]}


def test_runs_newest_first_with_what_their_logs_say(in_tmp_folder: Path) -> None:
    write_run(Path("runs/old"), ending="collapsed", written=1000)
    write_run(Path("runs/new ü"), written=3000)
    write_run(Path("runs/cut"), ending=None, written=2000)
    listed = entries()
    assert list(listed) == ["runs/new ü", "runs/cut", "runs/old"]
    assert [entry["outcome"] for entry in listed.values()] == ["completed", "interrupted", "collapsed"]
    size = sum(path.stat().st_size for path in Path("runs/old").rglob("*") if path.is_file())
    assert (
        listed["runs/old"].items() >= {"steps": 3, "final_loss": 0.0, "val_loss": 0.25, "bytes": size}.items()
    )
    assert listed == entries(".")
    table = altgrad("ls", "runs").stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in table] == [
        "run or sweep",
        "runs/new ü",
        "runs/cut",
        "runs/old",
    ]


def test_a_sweep_is_one_line_and_its_own_folder_lists_its_runs(in_tmp_folder: Path) -> None:
    for name in ("e5m2", "e7m0"):
        write_run(Path("runs/law") / name)
    outcomes = {"e5m2": "completed", "e7m0": "unfinished", "fp32": "completed"}
    arms = [{"name": name, "kind": "format", "outcome": outcome} for name, outcome in outcomes.items()]
    Path("runs/law/sweep.json").write_text(json.dumps({"state": "running", "arms": arms}))
    (entry,) = entries().values()
    assert entry["kind"] == "sweep"
    assert (entry["outcome"], entry["detail"]) == ("interrupted", "3 arms: 2 completed, 1 unfinished")
    assert sorted(entries("runs/law")) == ["runs/law/e5m2", "runs/law/e7m0"]
    assert list(entries("runs/law/e5m2")) == ["runs/law/e5m2"]


def test_what_a_process_writes_is_live(in_tmp_folder: Path) -> None:
    directory = RunDirectory(write_run(Path("runs/going"), ending=None))
    with sole_writer(directory):
        assert entries()["runs/going"]["outcome"] == "live"
    assert entries()["runs/going"]["outcome"] == "interrupted"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "events.jsonl").write_bytes(b"\xff\x00{\n" * 3), "damaged line"),
        (lambda run: (run / "events.jsonl").write_text("[" * 100_000 + "\n"), "damaged line"),
        (lambda run: (run / "events.jsonl").write_text('{"event": "step", "step": "x"}\n'), "damaged line"),
        (lambda run: (run / "events.jsonl").write_text('{"event": 1}\n'), "damaged line"),
        (
            lambda run: (run / "events.jsonl").write_text(
                '{"event": "step", "step": 1, "metrics": {"loss": "abc"}}\n'
            ),
            "damaged line",
        ),
        (
            lambda run: ((run / "run.json").touch(), (run / "events.jsonl").unlink()),
            "events.jsonl is missing",
        ),
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda run: (run / "sweep.json").write_text("{"), "is not JSON"),
        (lambda run: (run / "sweep.json").write_text('{"arms": 3, "state": "finished"}'), "holds no plan"),
    ],
)
def test_a_damaged_folder_is_listed_as_such(damage: object, said: str, in_tmp_folder: Path) -> None:
    write_run(Path("runs/whole"))
    damage(write_run(Path("runs/hurt")))  # type: ignore[operator]
    listed = entries()
    assert listed["runs/hurt"]["outcome"] == "damaged"
    assert said in str(listed["runs/hurt"]["detail"])
    assert listed["runs/whole"]["outcome"] == "completed"
    assert "damaged" in altgrad("ls").stdout


def test_a_torn_last_line_is_no_damage(in_tmp_folder: Path) -> None:
    with (write_run(Path("runs/torn"), ending=None) / "events.jsonl").open("a") as log:
        log.write('{"event": "ste')
    assert entries()["runs/torn"]["outcome"] == "interrupted"


def test_a_log_longer_than_the_end_that_is_read(in_tmp_folder: Path) -> None:
    run = write_run(Path("runs/long"))
    log = (run / "events.jsonl").read_text()
    (run / "events.jsonl").write_text("x" * 300_000 + "\n" + log)
    assert entries()["runs/long"]["outcome"] == "completed", "the beginning is not looked at"


@pytest.mark.parametrize("arguments", [["ls"], ["configs"]])
def test_a_list_does_not_wait_for_torch(arguments: list[str], in_tmp_folder: Path) -> None:
    write_run(Path("runs/one"))
    probe = (
        "import sys\nfrom altgrad_cli.commands.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_narrow_terminal_cuts_no_name(in_tmp_folder: Path, width: int) -> None:
    name = "runs/sweep-20261129-091501"
    Path(name).mkdir(parents=True)
    state = {"state": "finished", "arms": [{"name": "a", "kind": "format", "outcome": "completed"}] * 8}
    Path(name, "sweep.json").write_text(json.dumps(state))
    lines = CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["ls"]).stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith(f"{name}  finished")


def test_nothing_to_list(in_tmp_folder: Path) -> None:
    result = altgrad("ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "altgrad train smoke" in result.stderr
    assert entries() == {}
    assert altgrad("ls", "nowhere").exit_code == 2


def test_every_shipped_config_is_listed_with_its_first_sentence() -> None:
    listed = json.loads(altgrad("configs", "--json").stdout)["configs"]
    assert {"base", "e7m0_uniform", "gpu/base", "smoke"} <= {row["name"] for row in listed}
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["configs"]).stdout
    for row in listed:
        text = Path(row["path"]).read_text("utf-8")
        assert isinstance(yaml.safe_load(text), dict)
        comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        assert row["description"].endswith(".")
        assert comment.startswith(row["description"])
        assert row["description"] in shown
