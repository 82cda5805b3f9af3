from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from altgrad_cli.commands.views.sweep_tables import rate, results_table, table_notes, verdict_words
from altgrad_cli.commands.views.sweep_view import SweepView, duration
from altgrad_cli.config.loading import load_config
from altgrad_cli.metrics.verdict import Verdict
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.executors.messages import Progress, TaskReport
from altgrad_cli.sweeps.results import SweepRecord, assemble
from altgrad_cli.sweeps.specification import SweepSpec
from tests.sweeps.conftest import WriteLog


@pytest.fixture
def record(tmp_path: Path) -> SweepRecord:
    """A sweep of which nothing has been run."""
    spec = SweepSpec(base=load_config("base"), order=("E1M6", "E0M7"), retries=False)
    return assemble(tmp_path, spec, {})


def console(*, terminal: bool, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def text_of(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def progress(step: int) -> TaskReport:
    return TaskReport(name="fp32", kind="progress", progress=Progress(step=step, loss=2.5))


def test_on_a_terminal_running_arms_are_shown_with_their_time_left(record: SweepRecord) -> None:
    screen = console(terminal=True)
    with SweepView(screen) as view:
        view.planned(record)
        view.started(record.arms[0].arm, resumed=False)
        view.progressed(progress(10))
        view.progressed(progress(260))
        assert view._live is not None
        view._live.refresh()
    text = text_of(screen)
    for part in ("0 of 5 arms finished", "fp32", "260/500", "loss 2.500", "val –", "left"):
        assert part in text


def test_without_a_terminal_a_line_a_change(record: SweepRecord) -> None:
    screen = console(terminal=False)
    with SweepView(screen) as view:
        view.planned(record)
        view.started(record.arms[0].arm, resumed=True)
        view.progressed(progress(10))
        view.progressed(TaskReport(name="fp32", kind="warning", message="W&B: no login"))
    assert text_of(screen).splitlines() == [
        f"5 arms planned, 0 finished, in {record.path}",
        "E0M7 is 0.25 x E1M6: one experiment under power-of-two scales, the runs will agree bit for bit",
        "continuing fp32",
        "fp32: W&B: no login",
    ]


def test_quiet_is_quiet(record: SweepRecord) -> None:
    screen = console(terminal=True)
    with SweepView(screen, quiet=True) as view:
        view.planned(record)
        view.note("something")
    assert text_of(screen) == ""


def test_what_was_not_measured_is_a_dash(record: SweepRecord) -> None:
    screen = console(terminal=False, width=200)
    screen.print(results_table(record))
    row = next(line for line in text_of(screen).splitlines() if line.startswith("e1m6-uniform"))
    assert row.split() == ["e1m6-uniform", "E1M6", "unfinished", *["–"] * 9]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ({"grade": "failed", "cause": "stalled", "borderline": True}, "failed (stalled), borderline"),
        ({"grade": "trained"}, "trained"),
        ({"cause": "stalled"}, "no verdict; suspected: stalled"),
        ({}, "no verdict"),
        ({"recovered_fraction": 1.0}, "–"),
    ],
)
def test_verdicts_in_words(verdict: dict[str, Any], words: str) -> None:
    assert verdict_words(Verdict(**({"open_because": "why"} | verdict))) == words


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_table_cuts_no_name_and_loses_no_column(
    write_log: WriteLog, tmp_path: Path, width: int
) -> None:
    asked = SweepSpec(base=load_config("base"), order=("E7M0",), retries=False)
    losses = {"fp32": 2.0, "frozen": 3.0, "bf16": 2.01, "e7m0-uniform": 2.04}
    collapse = {"class": "stall_collapse", "step": 150, "onset": 1}
    logs = {
        name: read_run(write_log(name, validation={3: loss}, collapse=collapse if "e7m0" in name else None))
        for name, loss in losses.items()
    }
    screen = console(terminal=True, width=width)
    screen.print(results_table(assemble(tmp_path, asked, logs), brief=True))
    row = next(line for line in text_of(screen).splitlines() if line.startswith("e7m0-uniform "))
    for cell in ("2.040", "0.96@3", "trained", "warning"):
        assert cell in row
    assert max(map(len, text_of(screen).splitlines())) <= width


def test_why_there_is_no_verdict_is_said_once_below_the_table(write_log: WriteLog, tmp_path: Path) -> None:
    asked = SweepSpec(base=load_config("base"), order=("E5M2", "E7M0"), retries=False)
    losses = {"fp32": 2.0, "frozen": 2.05, "bf16": 2.01, "e5m2-uniform": 2.02, "e7m0-uniform": 2.04}
    logs = {name: read_run(write_log(name, validation={3: loss})) for name, loss in losses.items()}
    record = assemble(tmp_path, asked, logs)
    screen = console(terminal=False, width=200)
    screen.print(results_table(record))
    assert text_of(screen).count("no verdict") == 5
    reason = "fp32 and frozen are 0.050 nats apart, less than 0.1 at step 3"
    assert reason not in text_of(screen)
    assert sum(reason in note for note in table_notes(record)) == 1
    assert {row.to_json()["no_verdict_because"] for row in record.arms} == {reason}


def test_figures() -> None:
    assert [rate(value) for value in (None, 0.0, 4e-7, 0.031, 0.5)] == ["–", "0", "4e-05%", "3.1%", "50%"]
    assert [duration(seconds) for seconds in (0, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
