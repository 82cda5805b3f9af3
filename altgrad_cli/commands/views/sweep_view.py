"""What `sweep` shows while its arms run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from altgrad_cli.commands.views.sweep_tables import ending
from altgrad_cli.notation import decimals, printable
from altgrad_cli.runs.loggers.live import ECHO
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.executors.messages import Progress, TaskReport
from altgrad_cli.sweeps.results import SweepRecord

_LINE_EVERY = 30.0
"""Seconds between two lines about a running arm where there is no terminal."""


@dataclass(slots=True)
class _Running:
    """An arm that is being carried out: where it stands, and since when this is watched."""

    steps: int
    next_line: float
    progress: Progress = field(default_factory=Progress)
    first_step: int | None = None
    first_time: float = 0.0

    def reached(self, progress: Progress) -> None:
        self.progress = progress
        if self.first_step is None:
            self.first_step, self.first_time = progress.step, time.monotonic()

    @property
    def steps_taken(self) -> int:
        return 0 if self.first_step is None else self.progress.step - self.first_step

    def seconds_left(self) -> float | None:
        taken = self.steps_taken
        if taken <= 0:
            return None
        return (time.monotonic() - self.first_time) / taken * (self.steps - self.progress.step)


class SweepView:
    """Watches a sweep and shows it: live on a terminal, as plain lines elsewhere, not at all when quiet."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._record: SweepRecord | None = None
        self._running: dict[str, _Running] = {}
        self._told: set[str] = set()
        self._began = time.monotonic()
        self._steps_finished = 0
        self._live: Live | None = None
        if console.is_terminal and not quiet:
            self._live = Live(
                console=console, get_renderable=self._render, refresh_per_second=4, transient=True
            )

    def __enter__(self) -> SweepView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def planned(self, record: SweepRecord) -> None:
        """Say which arms are finished by now."""
        first = self._record is None
        self._record = record
        done = sum(result.finding is not None for result in record.arms)
        if first:
            self.say(f"{len(record.arms)} arms planned, {done} finished, in {record.path}")
            for equal in record.equivalences:
                self.say(
                    f"{equal}: one experiment under power-of-two scales, the runs will agree bit for bit"
                )
        for result in record.arms:
            if result.finding is not None:
                running = self._running.pop(result.arm.name, None)
                if running is not None:
                    self._steps_finished += result.finding.record.last_step - (running.first_step or 0)
                if result.arm.name not in self._told and not first and result.arm.kind != "tuning":
                    self.say(f"[{done}/{len(record.arms)}] {result.arm.name} {ending(result.finding)}")
                self._told.add(result.arm.name)
        for tried in record.rates_tried():  # a line an arm, not one a rate
            if tried.found.decided:
                line = f"{tried} ({tried.words})"
                if line not in self._told and not first:
                    self.say(f"[{done}/{len(record.arms)}] {line}")
                self._told.add(line)

    def started(self, arm: Arm, *, resumed: bool) -> None:
        """An arm was started."""
        self._running[arm.name] = _Running(arm.config.max_steps, time.monotonic() + _LINE_EVERY)
        if self._live is None:
            self.say(f"{'continuing' if resumed else 'starting'} {arm.name}")

    def progressed(self, report: TaskReport) -> None:
        """An arm got further, or has a warning."""
        if report.kind == "warning" and report.message not in self._told:  # what every arm meets is said once
            self._told.add(report.message)
            self.say(f"{report.name}: {report.message}")
        if report.progress is None or report.name not in self._running:
            return
        running = self._running[report.name]
        running.reached(report.progress)
        now = time.monotonic()
        if self._live is None and now >= running.next_line:
            running.next_line = now + _LINE_EVERY
            left = running.seconds_left()
            self.say(
                f"{report.name}: step {running.progress.step}/{running.steps}, "
                f"loss {decimals(running.progress.loss, 3)}"
                + (f", {duration(left)} left" if left is not None else "")
            )

    def note(self, message: str) -> None:
        """Something the user should read."""
        self.say(message)

    def say(self, message: str) -> None:
        """One line, above the live part."""
        if not self._quiet:
            # On a terminal a line is broken between words; elsewhere it stays one line.
            self._console.print(Text(printable(message)), soft_wrap=not self._console.is_terminal)

    def _render(self) -> Constrain:
        return Constrain(self._panel(), self._console.width - len(ECHO))

    def _panel(self) -> Group:
        if self._record is None:
            return Group()
        done = sum(result.finding is not None for result in self._record.arms)
        table = Table.grid(padding=(0, 2, 0, 0))
        bar = max(4, min(24, self._console.width - 76))
        for name, running in list(self._running.items()):
            left, progress = running.seconds_left(), running.progress
            table.add_row(
                Text(name, "bold"),
                ProgressBar(total=running.steps, completed=progress.step, width=bar),
                f"{progress.step}/{running.steps}",
                f"loss {decimals(progress.loss, 3)}",
                f"val {decimals(progress.validation_loss, 3)}",
                f"stall {decimals(progress.bit_stall_rate, 3)}",
                f"{duration(left)} left" if left is not None else "",
            )
        elapsed = time.monotonic() - self._began
        left = self._time_left(elapsed)
        words = f"{done} of {len(self._record.arms)} arms finished, {duration(elapsed)}"
        head = Text(words + (f", about {duration(left)} left" if left is not None else ""), "dim")
        return Group(head, table)

    def _time_left(self, elapsed: float) -> float | None:
        """From the steps taken since this sweep was started, for the arms that are planned by now."""
        assert self._record is not None
        waiting = [result.arm for result in self._record.unfinished if result.arm.name not in self._running]
        left = sum(arm.config.max_steps for arm in waiting)
        left += sum(running.steps - running.progress.step for running in self._running.values())
        taken = self._steps_finished + sum(running.steps_taken for running in self._running.values())
        return elapsed / taken * left if taken > 0 else None


def duration(seconds: float) -> str:
    """``3:07`` or ``1:02:45``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
