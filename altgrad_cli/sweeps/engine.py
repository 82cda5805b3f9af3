"""Carries a sweep out: plans, starts what is due, takes results in, plans again, until nothing is due.

All that it knows when it starts is the specification and what finished runs lie in the folder; so a sweep
that was stopped, killed or crashed goes on by being started again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from altgrad_cli.errors import UsageError, WriteError
from altgrad_cli.files import write_whole
from altgrad_cli.runs.folder import (
    EVENTS,
    RUN_SCHEMA,
    RunDirectory,
    check_run_schema,
    create_run,
    read_json,
    sole_writer,
)
from altgrad_cli.runs.log import has_ended
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.executors.messages import Task, TaskReport
from altgrad_cli.sweeps.executors.protocol import Executor
from altgrad_cli.sweeps.results import SweepRecord, assemble, write_sweep
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.sweeps.verdicts import JudgedRun
from altgrad_cli.training.events import to_json_value

_ATTEMPTS = 3
"""How often an arm whose process or node dies is started: twice more, from its last checkpoint."""
_REST = 10.0
"""Between two plans at least so many times what the last one took, while there is something to start."""
_STOP_SECONDS = 60.0
"""How long running arms may take to write their checkpoints after a stop was asked for."""


OnFailed = Callable[[Path, bool], object]


class Watcher(Protocol):
    """Sees what a sweep does, for a display."""

    def planned(self, record: SweepRecord) -> None:
        """The plan, and the results so far, changed."""

    def started(self, arm: Arm, *, resumed: bool) -> None:
        """An arm was started."""

    def progressed(self, report: TaskReport) -> None:
        """An arm got further, or has a warning."""

    def note(self, message: str) -> None:
        """Something the user should read."""


@dataclass(slots=True)
class SweepOutcome:
    """How a sweep ended."""

    record: SweepRecord
    interrupted: bool = False
    errors: dict[str, str] = field(default_factory=dict)
    """Arms that the program failed to carry out or to report on, and why."""


def run_sweep(
    spec: SweepSpec,
    folder: Path,
    executor: Executor,
    watcher: Watcher,
    *,
    subject: str | None = None,
    on_failed: OnFailed = lambda run_dir, final: None,
) -> SweepOutcome:
    """Carry out ``spec`` in ``folder``; what lies finished there is kept, what lies unfinished is continued.

    Args:
        subject: the user's own that the command line names, for the workers to load.
        on_failed: called with the folder of a failed run when its verdict is on disk (``final`` False), and
            again when the whole sweep is (``final`` True).

    A KeyboardInterrupt asks the running arms to stop at the next step and returns.

    Raises:
        UsageError: another process carries out this sweep.
    """
    with sole_writer(RunDirectory(folder), wait_seconds=0.0):
        return _Sweep(spec, folder, executor, watcher, subject, on_failed).run()


@dataclass(slots=True)
class _Sweep:
    spec: SweepSpec
    folder: Path
    executor: Executor
    watcher: Watcher
    subject: str | None
    on_failed: OnFailed
    records: dict[str, RunRecord] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    written: dict[str, JudgedRun] = field(default_factory=dict)
    """The results whose verdicts are on disk."""
    planned_at: float = 0.0
    planning_took: float = 0.0

    def run(self) -> SweepOutcome:
        interrupted = False
        for path in sorted(self.folder.iterdir()):
            if not (path / EVENTS).is_file():
                continue
            check_run_schema(path)
            if has_ended(path):
                try:
                    self.records[path.name] = self._read(path)
                except UsageError as error:  # taken up again, from before the damage
                    self.watcher.note(f"{path.name}: {error.message}")
        record = self._plan_again()
        try:
            news = False
            while self._start_due(record) or self.running or news:
                self._report_new_failures(record)  # while the arms run: no core waits for a report
                ended = [self._receive(report) for report in self.executor.wait(0.5)]
                news = news or any(ended)
                if news and self._is_time_to_plan(record):
                    record, news = self._plan_again(), False
        except KeyboardInterrupt:
            interrupted = True
            self.watcher.note("stopping: the running arms write a checkpoint first")
            self._stop()
            record = self._plan_again()
        if not interrupted:
            for name, finding in record.findings.items():
                if finding.failed:
                    self._report_failure(name, final=True)
        write_sweep(record, "interrupted" if record.unfinished else "finished")
        return SweepOutcome(record=record, interrupted=interrupted, errors=self.errors)

    def _read(self, run_dir: Path) -> RunRecord:
        """What ``run_dir`` came to; its layers, most of a log, only where the plan asks for them."""
        by_layer = self.spec.retries or self.spec.attribute
        return read_run(run_dir, layer_metrics=None if by_layer else ())

    def _plan_again(self) -> SweepRecord:
        """Plan and judge with what is finished, and put it on disk."""
        self.planned_at = time.monotonic()
        record = assemble(self.folder, self.spec, self.records)
        write_sweep(record, "running")
        for name, finding in record.findings.items():
            if self.written.get(name) != finding:
                _write_verdict(self.folder / name, finding)
                self.written[name] = finding
        self.watcher.planned(record)
        self.planning_took = time.monotonic() - self.planned_at
        return record

    def _is_time_to_plan(self, record: SweepRecord) -> bool:
        """Whether what ended is to be looked at now: of thousands of arms each look takes seconds.

        Of the sweep's time a tenth goes into it at most, but no place stays empty for want of a plan.
        """
        rested = time.monotonic() - self.planned_at >= _REST * self.planning_took
        return rested or not self._due(record)

    def _start_due(self, record: SweepRecord) -> bool:
        """Start arms while there is room for them; whether any was started."""
        slots = self.executor.free_slots()
        started = self._due(record)[:slots] if slots else []
        for arm in started:
            self._start(arm)
        return bool(started)

    def _due(self, record: SweepRecord) -> list[Arm]:
        """The arms that can be started."""
        known = (self.running, self.errors, self.records)
        return [each.arm for each in record.unfinished if not any(each.arm.name in names for names in known)]

    def _start(self, arm: Arm) -> None:
        path = self.folder / arm.name
        # A folder without a config is one whose creation was cut short: nothing of it is worth keeping.
        resume = path.exists() and RunDirectory(path).config.is_file()
        if not resume:
            shutil.rmtree(path, ignore_errors=True)
            create_run(path, arm.config)
        self.running.add(arm.name)
        self.attempts[arm.name] = self.attempts.get(arm.name, 0) + 1
        runtime = arm.config.runtime
        self.executor.start(
            Task(
                name=arm.name,
                run_dir=str(path),
                resume=resume,
                subject=self.subject,
                threads=runtime.threads,
                device=runtime.device,
            )
        )
        self.watcher.started(arm, resumed=resume)

    def _receive(self, report: TaskReport) -> bool:
        """Take in what an arm says; whether it was the arm's last."""
        if not report.is_last:
            self.watcher.progressed(report)
            return False
        self.running.discard(report.name)
        message = report.message
        if report.kind == "finished":
            self.records[report.name] = self._read(self.folder / report.name)
        elif report.kind == "failed":
            self.errors[report.name] = message
            self.watcher.note(f"{report.name}: {message}")
            _keep_traceback(self.folder / report.name, report)
        elif report.kind == "died":
            if self.attempts[report.name] >= _ATTEMPTS:
                self.errors[report.name] = f"died {_ATTEMPTS} times: {message}"
            again = " again; it is left unfinished" if report.name in self.errors else "; it is continued"
            self.watcher.note(f"{report.name}: {message}{again}")
        return True

    def _report_new_failures(self, record: SweepRecord) -> None:
        for name, finding in record.findings.items():
            if finding.failed and name not in self.reported:
                self.reported.add(name)
                self._report_failure(name, final=False)

    def _report_failure(self, name: str, *, final: bool) -> None:
        try:
            self.on_failed(self.folder / name, final)
        except Exception as error:  # noqa: BLE001 - a report that cannot be written spoils no measurement
            message = f"its failure report was not written: {type(error).__name__}: {error}"
            if self.errors.get(name) != message:
                self.errors[name] = message
                self.watcher.note(f"{name}: {message}")

    def _stop(self) -> None:
        """Let the running arms come to a stop; a second Ctrl-C ends them where they are."""
        self.executor.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            while self.running and time.monotonic() < deadline:
                for report in self.executor.wait(0.5):
                    self._receive(report)
        except KeyboardInterrupt:
            self.watcher.note("ended at once: unfinished arms go on from their last checkpoint")


def _write_verdict(run_dir: Path, finding: JudgedRun) -> None:
    directory, record = RunDirectory(run_dir), finding.record
    summary = {
        "schema": RUN_SCHEMA,
        "run": directory.name,
        "reason": record.ended.reason if record.ended else None,
        "steps": record.last_step,
        "collapse": finding.collapse,
        **finding.to_json(),
    }
    try:
        known = read_json(directory.summary)
    except UsageError:  # absent or damaged: the log says it all
        known = {}
    if known != to_json_value(summary):
        directory.write_summary(summary)


def _keep_traceback(run_dir: Path, report: TaskReport) -> None:
    if report.traceback and run_dir.is_dir():
        with suppress(WriteError):  # the disk may be full, and the arm's own error is already told
            write_whole(run_dir / "traceback.txt", report.traceback)
