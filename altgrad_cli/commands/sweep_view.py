"""What `sweep` shows: the arms as they run, and the table they end in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, Group
from rich.constrain import Constrain
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from altgrad_cli.metrics.thresholds import END_WINDOW, SEED_SPREAD
from altgrad_cli.metrics.verdict import Verdict, loss_scale
from altgrad_cli.notation import MISSING, decimals, printable
from altgrad_cli.runs.loggers.live import ECHO
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.comparison import compare_seeds
from altgrad_cli.sweeps.executors.messages import Progress, TaskReport
from altgrad_cli.sweeps.results import ArmResult, SweepRecord
from altgrad_cli.sweeps.verdicts import JudgedRun, arms_without_verdict
from altgrad_cli.training.watch.collapse import collapse_words

_LINE_EVERY = 30.0
"""Seconds between two lines about a running arm where there is no terminal."""
_HOW_TO_READ = (
    "rho@step: share of the fp32 run's gain over the frozen control. Losses: {unit}, of the last "
    "step and of the last evaluation with the rounded model. stall, tau: means over the last "
    f"{END_WINDOW} steps. overflow, underflow: means over the run, worst role."
)
_GRADE_STYLES = {"trained": "green", "degraded": "yellow", "failed": "red", None: ""}


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
                if result.arm.name not in self._told and not first:
                    self.say(f"[{done}/{len(record.arms)}] {result.arm.name} {_ending(result.finding)}")
                self._told.add(result.arm.name)

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


def _ended(cell: Callable[[JudgedRun], str]) -> Callable[[ArmResult], str]:
    """``cell`` of an arm that has ended; a dash for any other."""
    return lambda row: cell(row.finding) if row.finding else MISSING


_COLUMNS: tuple[tuple[str, Callable[[ArmResult], str], bool], ...] = (
    ("arm", lambda row: row.arm.name, True),
    ("format", lambda row: row.arm.format, False),
    ("outcome", lambda row: row.finding.outcome if row.finding else "unfinished", False),
    ("collapse", _ended(lambda found: _collapse(found) or MISSING), True),
    ("loss", _ended(lambda found: decimals(found.record.final_loss, 3)), False),
    ("val loss", _ended(lambda found: decimals(found.record.validation.last(), 3)), True),
    ("F1", _ended(lambda found: f1_words(found.record)), True),
    ("rho", _ended(lambda found: _rho(found)), True),
    ("stall", _ended(lambda found: decimals(found.record.end("bit_stall_rate"), 3)), True),
    ("tau", _ended(lambda found: decimals(found.record.end("update_transfer"), 3)), False),
    ("overflow", _ended(lambda found: rate(found.record.worst_role("overflow_rate"))), False),
    ("underflow", _ended(lambda found: rate(found.record.worst_role("underflow_rate"))), False),
    ("verdict", _ended(lambda found: verdict_words(found.verdict)), True),
)
"""Heading, cell, and whether a narrow terminal shows it too."""
_WORDS = ("arm", "format", "outcome", "collapse", "verdict")


def results_table(record: SweepRecord, *, brief: bool = False) -> Table:
    """The table a sweep ends in; every figure in it is computed from the runs' events."""
    table = Table(
        title=f"sweep {record.name}", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    scored = any(result.finding and result.finding.record.series("micro_f1") for result in record.arms)
    shown = [column for column in _COLUMNS if column[0] != "F1" or scored]
    columns = [column for column in shown if column[2] or not brief]
    for heading, _, _ in columns:
        justify: Literal["left", "right"] = "left" if heading in _WORDS else "right"
        no_wrap = not brief or heading not in ("collapse", "verdict")
        table.add_column(heading, justify=justify, no_wrap=no_wrap, overflow="fold")
    for result in record.arms:
        cells = [Text(cell(result)) for _, cell, _ in columns]
        cells[-1].style = _GRADE_STYLES[result.finding.verdict.grade if result.finding else None]
        table.add_row(*cells)
    return table


def full_width(console: Console, table: Table) -> int:
    """The columns it takes to show ``table`` uncut."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def table_notes(record: SweepRecord) -> list[str]:
    """What a reader of the table has to know."""
    notes = [_HOW_TO_READ.format(unit=loss_scale(record.spec.base.subject).unit)]
    for reason, names in arms_without_verdict(record.findings).items():
        notes.append(f"No verdict ({', '.join(names)}): {reason}.")
    notes += [f"{equal}: one experiment under power-of-two scales." for equal in record.equivalences]
    if len(record.spec.seeds) == 1:
        notes.append(f"One seed: rho differs by about {SEED_SPREAD} between seeds.")
    notes += [str(comparison) for comparison in compare_seeds(record.planned, record.findings)]
    causes = [*record.stage_attributions(), *record.layer_attributions()]
    notes += [line for cause in causes for line in str(cause).splitlines()]
    return notes


def f1_words(record: RunRecord) -> str:
    """``.75/.17``: micro and macro F1 of the last evaluation; a dash where there are none."""
    scores = [record.series(metric).last() for metric in ("micro_f1", "macro_f1")]
    return MISSING if None in scores else "/".join(decimals(score, 2) for score in scores)


def verdict_words(verdict: Verdict) -> str:
    """``failed (stalled)``, ``trained, borderline``, or that there is none; a dash for an end of rho.

    Why there is none is the same for many arms: ``table_notes`` says it once.
    """
    if verdict.grade is not None:
        words = verdict.grade + (f" ({verdict.cause})" if verdict.cause else "")
        return words + (", borderline" if verdict.borderline else "")
    if verdict.recovered_fraction is not None:
        return MISSING
    return "no verdict" + (f"; suspected: {verdict.cause}" if verdict.cause else "")


def _ending(found: JudgedRun) -> str:
    collapse = f" ({words})" if (words := _collapse(found)) else ""
    rho = f", rho {_rho(found)}" if found.rho is not None else ""
    verdict = f", suspected: {found.verdict.cause}" if found.verdict.cause else ""
    if found.verdict.grade:
        verdict = f", {verdict_words(found.verdict)}"
    return f"{found.outcome}{collapse}: val loss {decimals(found.record.validation.last(), 3)}{rho}{verdict}"


def _collapse(found: JudgedRun) -> str:
    if found.collapse is None:
        return f"warning: {found.warning}" if found.warning else ""
    return collapse_words({**found.collapse, "step": found.collapse_step})


def _rho(found: JudgedRun) -> str:
    return MISSING if found.rho is None else f"{decimals(found.rho, 2)}@{found.step}"


def rate(value: float | None) -> str:
    """A rate as a percentage, however small; a dash for what was not measured."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    return "0" if value == 0 else f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    """``3:07`` or ``1:02:45``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
