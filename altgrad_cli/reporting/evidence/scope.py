"""What a report is about: the runs named on the command line, their sweep and their controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.evidence.columns import RunLog, read_log
from altgrad_cli.reporting.evidence.runs import ArmNote, Evidence
from altgrad_cli.runs.folder import EVENTS, SWEEP, read_json
from altgrad_cli.sweeps.results import is_sweep

LAYER_METRICS = frozenset(
    {
        "bit_stall_rate",
        "apparent_stall_rate",
        "update_transfer",
        "zero_update_fraction",
        "zero_update_region_fraction",
        "zero_update_rows",
        "persistent_stall_rate",
        "predicted_stall_rate",
        "gradient_sparsity",
        "gradient_norm",
        "gradient_cosine",
        "gradient_norm_ratio",
        "gradient_sqnr",
        "dead_neurons",
        *(f"{rate}/{role}" for rate in ("overflow_rate", "underflow_rate") for role in OPERAND_ROLES),
        "underflow_rate/stored_weights",
        "overflow_rate/stored_weights",
        "zero_share/stored_weights",
        "codes_used/stored_weights",
        "code_entropy/stored_weights",
    }
)
"""The layer metrics that a report reads: what bounds its memory for a long run."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The runs of a report, in the order in which it tells them."""

    evidence: Evidence
    logs: tuple[str, ...]
    """Folders that were named, as a command line names them again."""
    focus: RunLog | None = None
    """The one run that the report is about; None for a comparison."""

    @property
    def runs(self) -> list[RunLog]:
        """All runs."""
        return list(self.evidence.runs.values())

    @property
    def controls(self) -> list[RunLog]:
        """The fp32, bf16 and frozen runs."""
        return [log for log in self.runs if log.control]

    @property
    def subjects(self) -> list[RunLog]:
        """The runs that are under study."""
        return [log for log in self.runs if not log.control]

    @property
    def main_runs(self) -> list[RunLog]:
        """The runs under study less retries, interventions and the parts of an attribution."""
        return [log for log in self.subjects if self.note(log).kind == "format"]

    @property
    def failed_runs(self) -> list[RunLog]:
        """Main runs below ``trained`` by their verdict, or collapsed."""
        return [log for log in self.main_runs if self.fell_short(log)]

    def fell_short(self, log: RunLog) -> bool:
        """Whether a run failed: its verdict says so, or it collapsed."""
        judgement = self.evidence.judgement(log)
        return judgement.verdict.grade == "failed" or judgement.outcome == "collapsed"

    def note(self, log: RunLog) -> ArmNote:
        """What the sweep's plan says of ``log``."""
        kind = "control" if log.control else "format"
        return self.evidence.notes.get(log.name, ArmNote(kind))


def shown_path(path: Path) -> str:
    """``path`` as a command line names it: from the working directory where it lies below that."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def gather(paths: Sequence[Path], layer_metrics: Collection[str] | None = LAYER_METRICS) -> Scope:
    """The scope of a report on the runs and sweeps in ``paths``; one run alone is its focus.

    Raises:
        UsageError: a path holds neither a run nor a sweep, or two runs would have one name.
    """
    folders: dict[str, Path] = {}
    notes: dict[str, ArmNote] = {}
    focus = None
    for path in paths:
        if is_sweep(path):
            found = _sweep_folders(path, notes)
        elif (path / EVENTS).is_file():
            focus = path.resolve().name if len(paths) == 1 else None
            found = [*_relatives(path, notes), path] if focus else [path]
        else:
            raise UsageError(
                f"neither a run nor a sweep: {path}",
                where=str(path),
                allowed="a folder with events.jsonl or sweep.json",
            )
        for folder in found:
            name = _free_name(folder, folders)
            folders[name] = folder
    runs = {
        name: read_log(folder, name=name, layer_metrics=layer_metrics) for name, folder in folders.items()
    }
    runs = {name: log for name, log in runs.items() if log.record.started}
    if not runs:
        raise UsageError("no run has begun there yet", where=", ".join(map(str, paths)))
    return Scope(Evidence(runs, notes), tuple(map(shown_path, paths)), runs.get(focus) if focus else None)


def _free_name(folder: Path, taken: Mapping[str, Path]) -> str:
    name = folder.resolve().name
    if name in taken and taken[name].resolve() != folder.resolve():
        name = f"{folder.resolve().parent.name}/{name}"
    return name


def _sweep_folders(path: Path, notes: dict[str, ArmNote]) -> list[Path]:
    """The folders of a sweep's runs that have begun, in the order of its plan."""
    rows: list[dict[str, Any]] = read_json(path / SWEEP).get("arms", [])
    notes |= {
        row["name"]: ArmNote(
            row["kind"], row.get("retry_of"), row.get("reason") or "", row.get("controls") or None
        )
        for row in rows
    }
    planned = [path / row["name"] for row in rows]
    others = sorted(p.parent for p in path.glob(f"*/{EVENTS}") if p.parent not in planned)
    return [folder for folder in [*planned, *others] if (folder / EVENTS).is_file()]


def _relatives(path: Path, notes: dict[str, ArmNote]) -> list[Path]:
    """Of the run's sweep: the controls, and the runs that were made because of this one."""
    parent = path.resolve().parent
    if not is_sweep(parent):
        return []
    name = path.resolve().name
    folders = _sweep_folders(parent, notes)
    return [
        folder
        for folder in folders
        if folder.name != name
        and (note := notes.get(folder.name))
        and (note.kind == "control" or note.retry_of == name or note.kind in ("attribution", "rescue"))
    ]
