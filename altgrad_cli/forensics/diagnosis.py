"""The whole diagnosis of one file: every question asked once, the answers in one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from altgrad_cli.checkpoints.foreign import ForeignTensors
from altgrad_cli.errors import UsageError
from altgrad_cli.forensics.against import Comparison, compare_with
from altgrad_cli.forensics.batch_report import describe_batch
from altgrad_cli.forensics.document import (
    Diagnosis,
    Finding,
    ForeignDiagnosis,
    ForeignFailure,
    ForeignTrust,
    TensorRow,
)
from altgrad_cli.forensics.failure import (
    NONE,
    NONFINITE,
    NOT_JUDGED,
    FailureClass,
    classify,
    history_of,
    optimizer_report,
)
from altgrad_cli.forensics.findings import findings, next_command
from altgrad_cli.forensics.foreign import describe_tensors, foreign_findings, not_judged
from altgrad_cli.forensics.layer_table import LayerRow, examine
from altgrad_cli.forensics.lead_time import lead_time
from altgrad_cli.forensics.mechanism import attribute, explain
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint, trust_report
from altgrad_cli.forensics.provenance import amax_suspects, describe_origin
from altgrad_cli.forensics.step_again.bisection import minimal_bf16_layers
from altgrad_cli.forensics.step_again.foreign_step import foreign_step
from altgrad_cli.forensics.step_again.replay import not_run, replay
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.forensics.step_again.variations import Trials
from altgrad_cli.forensics.step_again.what_if import what_if
from altgrad_cli.formats import parse_format
from altgrad_cli.training.origin import FirstNonfinite, find_first

Row = TypeVar("Row", LayerRow, TensorRow)


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is asked beyond the diagnosis itself."""

    replay: bool = False
    what_if: bool = False
    against: Path | None = None
    """A run's folder: the control at the same step."""
    format: str | None = None
    """The format to judge a state dict by that altgrad did not write."""
    layer: str | None = None
    """Only layers whose name contains this are tabled."""
    data: str | None = None
    """Where the run's corpus lies; a path that the file states is never followed."""
    subject: str | None = None
    """The user's own subject, which is loaded; one that only the file names is not."""
    threads: int | None = None
    """torch's threads in the replaying process; None takes those of the recorded run."""


def diagnose(path: Path, questions: Questions) -> Diagnosis | ForeignDiagnosis:
    """The diagnosis of the file at ``path``.

    Raises:
        CheckpointError: the file cannot be trusted or is no checkpoint.
        UsageError: a question that this file cannot be asked.
    """
    before = torch.get_num_threads()
    try:
        opened = open_checkpoint(path)
        if isinstance(opened, ForeignTensors):
            return diagnose_foreign(opened, questions)
        return diagnose_checkpoint(opened, questions)
    finally:
        torch.set_num_threads(before)


def diagnose_foreign(foreign: ForeignTensors, questions: Questions) -> ForeignDiagnosis:
    """What can be said of a state dict without any evidence of how it came about."""
    asked = {"--replay": questions.replay, "--against": questions.against}
    if questions.subject is None:
        asked["--what-if"] = questions.what_if
    impossible = [option for option, given in asked.items() if given]
    if impossible:
        raise UsageError(
            f"{', '.join(impossible)} needs a checkpoint that altgrad wrote",
            where=str(foreign.path),
            hint="of a plain state dict only the values are known; --subject M:F loads them into your model",
        )
    taken = None
    if questions.subject is not None:
        taken = foreign_step(
            foreign,
            questions.subject,
            format=questions.format,
            data=questions.data,
            everything=questions.what_if,
        )
    fmt = None if questions.format is None else parse_format(questions.format)
    rows, left_out = describe_tensors(foreign, fmt), not_judged(foreign)
    bad = sum(row.nonfinite_weights for row in rows)
    first = None if taken is None else taken.first
    kind: FailureClass = NONFINITE if bad or first is not None else (NONE if rows else NOT_JUDGED)
    said = foreign_findings(foreign, rows, left_out, judged_on_grid=fmt is not None)
    of_step = () if taken is None else tuple(Finding("note", words) for words in taken.words)
    return ForeignDiagnosis(
        file=str(foreign.path),
        kind=foreign.kind,
        trust=ForeignTrust(verified=("record checksums",) if foreign.checksums else ()),
        failure=ForeignFailure(kind=kind, nonfinite_count=bad if rows else None),
        first_nonfinite=None
        if taken is None or first is None
        else describe_origin(first, taken.given.state, taken.given.step),
        fits=() if taken is None else taken.fits,
        counterfactuals=() if taken is None else taken.counterfactuals,
        layers=_selected(rows, questions.layer),
        not_judged=left_out,
        findings=(*of_step, *said),
    )


def diagnose_checkpoint(opened: OpenedCheckpoint, questions: Questions) -> Diagnosis:
    """The diagnosis of a checkpoint that altgrad wrote."""
    if questions.format is not None:
        raise UsageError(
            "--format is for state dicts that altgrad did not write",
            where=str(opened.path),
            hint="this checkpoint knows its formats; --what-if tries the others",
        )
    given = rebuild(opened, questions.data, questions.subject)
    saved, repeatable = opened.saved, given.batch is not None
    if questions.what_if and not repeatable:
        raise UsageError(
            "--what-if needs the batch of the step",
            where=given.batch_origin,
            hint="give the corpus of the run (data.path), or an anomaly checkpoint",
        )
    records = saved.trace or (given.trace() if repeatable else ())
    first = find_first(records)
    suspects = amax_suspects(records)
    seen = examine(given)
    trials = Trials(given, seen.shadow, seen.recorded)
    attribution = attribute(trials) if repeatable else None
    count = sum(record.nonfinite for record in records if record.phase != "optimizer") or seen.nonfinite
    failure = classify(opened, first, attribution.recorded if attribution else None, count)
    struck = [fault for fault in saved.injections.struck if fault.step == opened.step]
    saving_layers = questions.what_if and failure.kind == NONFINITE
    diagnosis = Diagnosis(
        file=str(opened.path),
        run=None if opened.run_folder is None else str(opened.run_folder),
        trust=trust_report(opened, questions.subject),
        failure=failure,
        first_nonfinite=None if first is None else describe_origin(first, given.state, opened.step),
        mechanism=explain(failure.kind, attribution, first, suspects, struck, seen.zeroed),
        amax_suspects=suspects,
        lead_time=lead_time(history_of(saved), opened.step),
        layers=_selected(_origin_first(seen.layers, first), questions.layer),
        optimizer=optimizer_report(given),
        replay=replay(opened, questions.threads, data=questions.data, subject=questions.subject)
        if questions.replay
        else not_run(),
        counterfactuals=tuple(what_if(trials)) if questions.what_if else (),
        minimal_bf16_layers=minimal_bf16_layers(trials) if saving_layers else None,
        batch=describe_batch(given),
        against=_against(opened, questions.against),
    )
    return replace(
        diagnosis,
        findings=tuple(findings(diagnosis)),
        next=next_command(opened, diagnosis, questions.what_if),
    )


def _against(opened: OpenedCheckpoint, control: Path | None) -> Comparison | None:
    if control is None:
        return None
    return compare_with(control, history_of(opened.saved), opened.step, opened.saved.config.get("seed"))


def _origin_first(rows: list[LayerRow], first: FirstNonfinite | None) -> list[LayerRow]:
    """The layer where it began before its victims."""
    return sorted(rows, key=lambda row: first is None or row.name != first.record.module)


def _selected(rows: Sequence[Row], layer: str | None) -> tuple[Row, ...]:
    if layer is None:
        return tuple(rows)
    kept = tuple(row for row in rows if layer in row.name)
    if not kept:
        raise UsageError(
            f"no layer is called {layer!r}", where="--layer", allowed=", ".join(row.name for row in rows)
        )
    return kept
