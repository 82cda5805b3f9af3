"""W&B as a listener: what it is sent, that nothing of it can be felt, and what is on disk afterwards."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altgrad_cli.commands.app import app
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.folder import RunDirectory, create_run
from altgrad_cli.runs.log import read_lines
from altgrad_cli.runs.loggers import wandb as wandb_logger
from altgrad_cli.runs.loggers.wandb import WandbLogger, wandb_id, wandb_listeners, wandb_metadata
from altgrad_cli.runs.loggers.wandb_process import WandbTarget, _Session
from altgrad_cli.runs.loggers.wandb_rows import alert_texts, code_counts, evaluation_row, step_row
from altgrad_cli.runs.resumption import plan_resumption
from altgrad_cli.runs.run import carry_out
from altgrad_cli.training.events import Alert, Evaluated, StepCompleted, event_from_json
from tests.runs.test_resumption import contents

Tiny = Callable[..., TrainConfig]


def step(number: int = 1, **changes: Any) -> StepCompleted:
    values: dict[str, Any] = {
        "metrics": {"loss": 2.0, "bit_stall_rate": 0.5, "overflow_rate/weights": 0.0, "grad": None},
        "layers": {"bit_stall_rate": [0.25, None], "overflow_rate/weights": [0.0, 1.0]},
        "committed": True,
        "format": "E7M0",
        "histograms": {},
    }
    return StepCompleted(step=number, **{**values, **changes})


def test_a_row_is_grouped_and_leaves_out_what_was_not_measured() -> None:
    assert step_row(step(), ["a", "b"]) == {
        "run/loss": 2.0,
        "bit_stall_rate/all": 0.5,
        "bit_stall_rate/a": 0.25,
        "overflow_rate.weights/all": 0.0,
        "overflow_rate.weights/a": 0.0,
        "overflow_rate.weights/b": 1.0,
        "run/nonfinite": 0,
        "run/committed": 1,
    }


def test_a_nan_step_is_seen_in_a_series_that_is_finite() -> None:
    row = step_row(step(metrics={"loss": math.nan, "gradient_norm": math.inf}, committed=False), ["a", "b"])
    assert row["run/nonfinite"] == 3
    assert row["run/committed"] == 0
    assert math.isnan(row["run/loss"])


def test_evaluations_and_histograms() -> None:
    event = Evaluated(step=1, validation_loss=2.5, validation_loss_master=None, perplexity=12.0)
    assert evaluation_row(event) == {"run/validation_loss": 2.5, "run/perplexity": 12.0}
    counts = {"weights": [[1, 2, 3], [], [4, 5, 6], [1] * 70000], "gradients": [[], []]}
    assert code_counts(step(histograms=counts)) == {"codes/weights": [5, 7, 9]}


def test_alerts_of_one_kind_are_one_alert() -> None:
    def alert(layer: str | None, state: str = "raised") -> Alert:
        return Alert(
            step=3, name="stall", metric="bit_stall_rate", layer=layer, value=0.9, threshold=0.5, state=state
        )

    texts = alert_texts([alert(None), *(alert(f"layer{n}") for n in range(12)), alert("x", "cleared")])
    assert [title for title, _ in texts] == ["stall raised", "stall cleared"]
    assert "12 layers" in texts[0][1]
    assert "and 5 more" in texts[0][1]


def inspect(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.wandb`` file, read by W&B's own tool."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in read.stdout.splitlines()]


def wandb_files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))


def test_every_step_and_its_metrics_are_in_the_offline_file(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(
        "wandb.mode=offline",
        "wandb.tags=a,b",
        "diagnostic_interval=4",
        "inject=nan@5:blocks.0.mlp.c_fc:gradients",
    )
    directory = create_run(tmp_path / "a", config)
    warnings: list[str] = []

    def report(ended: object) -> None:
        (directory.path / "failure_report.md").write_text("# why")

    carry_out(config, directory, wandb_listeners(config, directory, warn=warnings.append), on_end=report)
    assert warnings == []
    (file,) = wandb_files(directory.path)
    records = inspect(file)
    by_kind = {kind: [r[kind] for r in records if r["type"] == kind] for kind in ("history", "alert", "run")}
    rows = {row["item"]["_step"]: row["item"] for row in by_kind["history"]}
    assert by_kind["run"][0]["run_id"] == wandb_id(directory)
    lines = list(read_lines(directory.path))
    layers = lines[0]["layers"]
    steps = [event_from_json(line) for line in lines if line["event"] == "step"]
    assert steps
    for event in steps:
        assert isinstance(event, StepCompleted)
        logged = rows[event.step]
        for key, value in step_row(event, layers).items():
            if math.isfinite(value):
                assert logged[key] == pytest.approx(value), key
            else:
                assert key in logged
    assert rows[5]["run/nonfinite"] > 0
    assert rows[4]["codes/activations._type"] == "histogram"
    assert "run/validation_loss" in rows[4]
    assert any(alert["title"] == "stall raised" for alert in by_kind["alert"])
    assert "failure_report.md" in json.dumps([r for r in records if "artifact" in json.dumps(r)])


class FakeRun:
    """What W&B's run object does with rows, for a run that has rows up to step 4 already."""

    id = "abc"
    step = 5

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any], step: int) -> None:
        assert step not in self.rows
        self.rows[step] = dict(row)

    def alert(self, **alert: Any) -> None:
        raise AssertionError(alert)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_after_a_resume_no_step_is_logged_twice(tmp_path: Path) -> None:
    run = FakeRun()
    session = _Session(run, tmp_path, run.step, ["a", "b"])
    for number in range(3, 8):  # the run was cut back to step 2, W&B has 3 and 4 from before
        session.receive(step(number))
        session.receive(
            Evaluated(step=number, validation_loss=1.0, validation_loss_master=None, perplexity=2.7)
        )
    session.close(clean=True)
    assert sorted(run.rows) == [5, 6, 7]
    assert all("run/loss" in row and "run/validation_loss" in row for row in run.rows.values())
    assert run.exit_code == 0


def test_the_id_is_found_in_a_checkpoint_that_lost_its_folder(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("wandb.mode=offline")
    directory = create_run(tmp_path / "a", config)
    loggers = wandb_listeners(config, directory, warn=pytest.fail)
    carry_out(config, directory, metadata=wandb_metadata(loggers))
    assert wandb_id(directory) == loggers[0].target.run_id


def test_a_refused_resume_that_turns_it_on_leaves_nothing_behind(tmp_path: Path, tiny: Tiny) -> None:
    directory = create_run(tmp_path / "a", tiny())
    seen: list[int] = []
    carry_out(tiny(), directory, stop_requested=lambda: seen.append(1) is None and len(seen) > 4)
    before = contents(directory.path)
    for override, code in (("model.n_embd=64", 2), ("max_steps=9", 0)):
        words = ["train", "--resume", str(directory.path), "--wandb", "offline", override, "-q"]
        assert CliRunner().invoke(app, words).exit_code == code
        assert (contents(directory.path) == before) == (code == 2)
    assert wandb_files(directory.path)


def test_the_arms_of_a_sweep_are_a_group(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[WandbTarget] = []
    monkeypatch.setattr(wandb_logger, "WandbLogger", lambda target, warn: targets.append(target))
    config = tiny("wandb.mode=offline", "wandb.name=study")
    sweep = tmp_path / "sweep"
    for parent in (tmp_path, sweep):
        directory = create_run(parent / "e7m0-uniform", config)
        (sweep / "sweep.json").write_text("{}") if sweep.exists() else None
        wandb_listeners(config, directory, warn=pytest.fail)
    assert [(target.group, target.name) for target in targets] == [(None, "study"), ("study", "e7m0-uniform")]


def test_a_resumed_run_keeps_its_id(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("wandb.mode=offline")
    directory = create_run(tmp_path / "a", config)
    seen: list[int] = []
    carry_out(
        config,
        directory,
        wandb_listeners(config, directory, warn=pytest.fail),
        stop_requested=lambda: seen.append(1) is None and len(seen) > 8,
    )
    time.sleep(1.1)  # W&B names an offline folder by the second
    listeners = wandb_listeners(config, directory, warn=pytest.fail)
    carry_out(config, directory, listeners, resume=plan_resumption(directory))
    files = wandb_files(directory.path)
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    rows: dict[int, Any] = {}
    for file in files:
        rows |= {r["history"]["item"]["_step"]: r["history"]["item"] for r in inspect(file) if "history" in r}
    assert set(range(1, 9)) <= set(rows)


def test_disabled_costs_nothing_and_imports_nothing(tmp_path: Path, tiny: Tiny) -> None:
    assert wandb_listeners(tiny(), RunDirectory(tmp_path), warn=pytest.fail) == []
    code = "import sys, altgrad_cli.runs.loggers.wandb, altgrad_cli.runs.run;sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def target(tmp_path: Path, mode: str = "offline") -> WandbTarget:
    return WandbTarget(
        run_id="abc", mode=mode, project="p", name="n", group=None, tags=(), folder=str(tmp_path)
    )


def _hang(events: Any, reports: Any, target: WandbTarget) -> None:
    time.sleep(600)


def _die(events: Any, reports: Any, target: WandbTarget) -> None:
    events.get()
    sys.exit(1)


def test_a_hang_neither_blocks_training_nor_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "serve", _hang)
    monkeypatch.setattr(wandb_logger, "MAX_WAITING", 20)
    warnings: list[str] = []
    logger = WandbLogger(target(tmp_path), warnings.append, close_seconds=0.5)
    started = time.monotonic()
    for number in range(2000):
        logger.receive(step(number))
    logger.close()
    assert time.monotonic() - started < 300, "the end waited for the process that sleeps for 600 seconds"
    assert warnings == ["W&B: does not take data; the run goes on without it"]


def test_a_hang_at_the_very_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "serve", _hang)
    warnings: list[str] = []
    logger = WandbLogger(target(tmp_path), warnings.append, close_seconds=0.5)
    logger.receive(step())
    logger.close()
    assert len(warnings) == 1
    assert "did not finish in time" in warnings[0]


def test_a_process_that_dies_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "serve", _die)
    warnings: list[str] = []
    logger = WandbLogger(target(tmp_path), warnings.append, close_seconds=5)
    for number in range(50):
        logger.receive(step(number))
        time.sleep(0.01)
    logger.close()
    assert warnings == ["W&B: ended by itself; its last data may be missing there"]


def test_a_missing_login_is_one_warning_and_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    warnings: list[str] = []
    config = tiny("wandb.mode=online")
    directory = create_run(tmp_path / "a", config)
    ended = carry_out(config, directory, wandb_listeners(config, directory, warn=warnings.append))
    assert ended is not None
    assert ended.outcome == "completed"
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B: not logged: ")
    assert "\n" not in warnings[0]


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "wandb").write_text("a file where wandb wants its folder")
    warnings: list[str] = []
    logger = WandbLogger(target(blocked), warnings.append)
    logger.receive(step())
    logger.close()
    assert len(warnings) == 1, warnings
