"""A real sweep that tunes, in this process: undisturbed, and stopped in the middle and taken up again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from altgrad_cli.commands.views.sweep_tables import gaps_table, rates_table, results_table
from altgrad_cli.commands.views.sweep_view import SweepView
from altgrad_cli.metrics.verdict import Verdict
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from altgrad_cli.runs.folder import RunDirectory
from altgrad_cli.runs.record import read_run
from altgrad_cli.runs.resumption import plan_resumption
from altgrad_cli.runs.run import carry_out
from altgrad_cli.sweeps.engine import SweepOutcome, run_sweep
from altgrad_cli.sweeps.executors.messages import Task, TaskReport
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.sweeps.tuning import rate_word
from altgrad_cli.sweeps.verdicts import arms_without_verdict
from tests.small import small

ASKED = SweepSpec(
    base=small("use_shadow=false", "runtime.checkpoint_interval=2", "max_steps=4"),
    order=("E5M2", "E7M0"),
    seeds=(42, 43),
    tune=(6e-3, 2e-2),
    retries=False,
)


@dataclass
class InThisProcess:
    """One run at a time; the one after ``most`` runs is stopped at its third step, as Ctrl-C does."""

    most: int = 10_000
    ended: list[str] = field(default_factory=list)
    reports: list[TaskReport] = field(default_factory=list)

    def free_slots(self) -> int:
        return int(not self.reports)

    def start(self, task: Task) -> None:
        directory = RunDirectory(Path(task.run_dir))
        plan = plan_resumption(directory, may_begin_anew=True) if task.resume else None
        asked = iter(range(10_000))
        ended = carry_out(
            plan.config if plan else directory.load_config(),
            directory,
            [],
            resume=plan,
            stop_requested=lambda: len(self.ended) == self.most and next(asked) == 2,
        )
        self.ended.append(task.name)
        self.reports.append(TaskReport(name=task.name, kind="finished" if ended else "stopped"))

    def wait(self, timeout: float) -> Sequence[TaskReport]:
        said, self.reports = self.reports, []
        if said and said[0].kind == "stopped":
            self.reports = said
            raise KeyboardInterrupt
        return said

    def stop(self) -> None: ...
    def close(self) -> None: ...


def sweep(folder: Path, executor: InThisProcess) -> SweepOutcome:
    return run_sweep(ASKED, folder, executor, SweepView(Console(), quiet=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    return sweep(tmp_path_factory.mktemp("whole"), InThisProcess())


def test_final_runs_are_at_the_rate_of_the_lowest_loss_tried(whole: SweepOutcome) -> None:
    folder = whole.record.path
    tried = {each.arm: each for each in whole.record.rates_tried()}
    assert list(tried) == ["fp32", "frozen", "bf16", "e5m2-uniform", "e7m0-uniform"]
    for name, each in tried.items():
        losses = {
            rate: sum(read_run(folder / arm.name).validation.last() for arm in trials) / len(trials)
            for rate, trials in each.trials.items()
        }
        assert {arm.config.seed for arm in each.trials[min(losses)]} == {42, 43}
        best = min(losses, key=lambda rate: (losses[rate], rate))
        for seed in (42, 43):
            config = RunDirectory(folder / f"{name}-seed{seed}").load_config()
            assert (config.seed, config.learning_rate, config.data.evaluate_on) == (seed, best, "final")
    for result in whole.record.arms:
        assert result.finding is not None
        assert (result.arm.kind == "tuning") == (result.arm.config.data.evaluate_on == "tuning")
        if result.arm.kind == "tuning":
            assert result.finding.verdict == Verdict(open_because="it only tries a learning rate")
    assert not any(name.startswith("tune-") for names in _without(whole) for name in names)


def test_stopped_and_taken_up_again_it_ends_the_same(whole: SweepOutcome, tmp_path: Path) -> None:
    most = 9
    first = sweep(tmp_path, InThisProcess(most))
    assert first.interrupted
    rest = InThisProcess()
    second = sweep(tmp_path, rest)
    ours, theirs = ([_plain(result.to_json()) for result in each.record.arms] for each in (second, whole))
    assert ours == theirs
    assert len(rest.ended) == len(theirs) - most, "what had ended is not run again"


def _without(outcome: SweepOutcome) -> list[list[str]]:
    return list(arms_without_verdict(outcome.record.findings).values())


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != "run_dir"}


def test_the_table_has_a_line_an_arm_and_the_report_says_what_was_tried(whole: SweepOutcome) -> None:
    record = whole.record
    screen = Console(width=300, file=io.StringIO())
    for table in (results_table(record), rates_table(record), gaps_table(record)):
        screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert not any(line.startswith("tune-") for line in lines)
    (result,) = [line for line in lines if line.startswith("fp32-seed42")]
    rates, gaps = [line for line in lines if line.startswith("fp32 ")]
    best = next(each.found.best for each in record.rates_tried() if each.arm == "fp32")
    assert best is not None and rate_word(best) in result.split()
    assert "6e-3 " in rates and gaps.split()[1:4] == [rate_word(best), "96", "2"]
    report = build_report([record.path])
    titles = [section.title for section in report.sections]
    assert "Learning rates" in titles and "Loss gaps" in titles
    text = to_markdown(report, "r")
    verdicts = text.split("<summary>Verdicts<")[1].split("<summary>")[0]
    assert "tune-" not in verdicts
    assert "`e7m0-uniform`: " in text.split("<summary>Learning rates<")[1]
