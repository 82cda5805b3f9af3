"""What a report is about: the runs named on the command line, their sweep and their controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from altgrad_cli.config.loading import from_plain
from altgrad_cli.config.precision import ROLES
from altgrad_cli.config.run import WandbConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.metrics.catalogue import METRICS
from altgrad_cli.reporting.evidence.groups import run_groups
from altgrad_cli.reporting.evidence.runs import Evidence
from altgrad_cli.runs.folder import EVENTS
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.arms import Arm, ArmRow, find_controls
from altgrad_cli.sweeps.format_verdicts.ranking import rankings
from altgrad_cli.sweeps.format_verdicts.words import format_verdicts
from altgrad_cli.sweeps.results import is_sweep, judge_records, read_sweep
from altgrad_cli.sweeps.verdicts import judge_run

LAYER_METRICS = frozenset(
    key
    for name, spec in METRICS.items()
    if spec.by_layer
    for key in ([f"{name}/{role}" for role in ROLES] if spec.scope == "layer_role" else [name])
)
"""Every measure that a layer can have; the rest of a long run's log is not kept."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The runs of a report, in the order in which it tells them."""

    evidence: Evidence
    logs: tuple[str, ...]
    """Folders that were named, as a command line names them again."""
    focus: RunRecord | None = None
    """The one run that the report is about; None for a comparison."""

    @property
    def runs(self) -> list[RunRecord]:
        """All runs but those that only tried a learning rate."""
        return [log for log in self.evidence.runs.values() if self.kind(log) != "tuning" or log is self.focus]

    @property
    def subjects(self) -> list[RunRecord]:
        """The runs that are under study."""
        return [log for log in self.runs if not log.control]

    @property
    def main_runs(self) -> list[RunRecord]:
        """The runs under study less retries, interventions and the parts of an attribution."""
        return [log for log in self.subjects if self.kind(log) == "format"]

    @property
    def failed_runs(self) -> list[RunRecord]:
        """Main runs below ``trained`` by their verdict, or collapsed."""
        return [log for log in self.main_runs if self.fell_short(log)]

    def fell_short(self, log: RunRecord) -> bool:
        """Whether a run failed: its verdict says so, or it collapsed."""
        judged_run = self.evidence.judged(log)
        return judged_run.verdict.grade == "failed" or judged_run.outcome == "collapsed"

    def arm(self, log: RunRecord) -> Arm | None:
        """What ``log`` is in the plan of its sweep; of a run by itself, what it would be."""
        return self.evidence.arms.get(log.name)

    def kind(self, log: RunRecord) -> str:
        """The kind of arm that ``log`` is."""
        arm = self.arm(log)
        return arm.kind if arm else "control" if log.control else "format"


def shown_path(path: Path) -> str:
    """``path`` as a command line names it: from the working directory where it lies below that."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def gather(paths: Sequence[Path], layer_metrics: Collection[str] | None = LAYER_METRICS) -> Scope:
    """The scope of a report on the runs and sweeps in ``paths``; one run alone is its focus.

    Raises:
        UsageError: a path holds neither a run nor a sweep, or no run there has begun.
    """
    found: dict[str, _Found] = {}
    focus = None
    for path in paths:
        if is_sweep(path):
            more = _runs_of_sweep(path)
        elif (path / EVENTS).is_file():
            focus = path.resolve().name if len(paths) == 1 else None
            row = _rows(path.resolve().parent).get(path.resolve().name)
            more = [*(_relatives(path) if focus else ()), _Found(path, row)]
        else:
            raise UsageError(
                f"neither a run nor a sweep: {path}",
                where=str(path),
                allowed="a folder with events.jsonl or sweep.json",
            )
        for run in more:
            found.setdefault(_free_name(run.folder, found), run)
    runs = {name: read_run(run.folder, name=name, layer_metrics=layer_metrics) for name, run in found.items()}
    runs = {name: log for name, log in runs.items() if log.started}
    if not runs:
        raise UsageError("no run has begun there yet", where=", ".join(map(str, paths)))
    arms = _arms(runs, found)
    return Scope(judged(runs, arms), tuple(map(shown_path, paths)), runs.get(focus) if focus else None)


def judged(runs: Mapping[str, RunRecord], arms: Mapping[str, Arm]) -> Evidence:
    """The evidence of ``runs``, each held against the controls of its arm."""
    alone = {name: judge_run(log, None, None) for name, log in runs.items()}
    planned = list(arms.values())
    findings = alone | judge_records(planned, runs)
    formats = format_verdicts(planned, findings)
    ranks = [ranked for bench in rankings(planned, findings) for ranked in bench]
    return Evidence(runs, arms, findings, formats, ranks, run_groups(planned, formats))


class _Found(NamedTuple):
    """A run's folder, and its row in ``sweep.json`` where it has one."""

    folder: Path
    row: ArmRow | None


def _rows(folder: Path) -> Mapping[str, ArmRow]:
    """The plan of the sweep in ``folder`` by name; {} where it is none."""
    return read_sweep(folder).arms if is_sweep(folder) else {}


def _runs_of_sweep(path: Path) -> list[_Found]:
    """The runs of a sweep that have begun, in the order of its plan; then those that it did not plan."""
    rows = _rows(path)
    others = sorted(p.parent.name for p in path.glob(f"*/{EVENTS}") if p.parent.name not in rows)
    runs = [_Found(path / name, rows.get(name)) for name in [*rows, *others]]
    return [run for run in runs if (run.folder / EVENTS).is_file()]


def _relatives(path: Path) -> list[_Found]:
    """Of the run's sweep: the controls, and the runs that were made because of this one."""
    parent, name = path.resolve().parent, path.resolve().name
    return [
        run
        for run in (_runs_of_sweep(parent) if is_sweep(parent) else ())
        if run.row and run.folder.name != name
        if run.row.kind in ("control", "attribution", "rescue") or run.row.retry_of == name
    ]


def _free_name(folder: Path, taken: Mapping[str, _Found]) -> str:
    name = folder.resolve().name
    if name in taken and taken[name].folder.resolve() != folder.resolve():
        name = f"{folder.resolve().parent.name}/{name}"
    return name


def _arms(runs: Mapping[str, RunRecord], found: Mapping[str, _Found]) -> dict[str, Arm]:
    """What each run is: by the plan of its sweep, else by itself, with the first controls that fit."""
    names = {found[name].folder.resolve(): name for name in runs}
    arms = {}
    for name, log in runs.items():
        row, sweep = found[name].row, found[name].folder.resolve().parent
        row = row or ArmRow(name=name, kind="control" if log.control else "format")
        planned = {regime: names.get(sweep / other) for regime, other in row.controls.items()}
        with suppress(UsageError):  # a log of another version: its configuration cannot be compared
            arms[name] = Arm(
                name=name,
                kind=row.kind,
                config=replace(from_plain(log.config, name), wandb=WandbConfig()),
                retry_of=names.get(sweep / str(row.retry_of), row.retry_of),
                reason=row.reason,
                controls={regime: other for regime, other in planned.items() if other is not None},
            )
    controls = [arm for arm in arms.values() if runs[arm.name].control]
    return {
        name: arm if arm.controls else replace(arm, controls=find_controls(arm.config, controls))
        for name, arm in arms.items()
    }
