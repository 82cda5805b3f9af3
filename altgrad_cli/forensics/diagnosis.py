"""The whole diagnosis of one file: every question asked once, the answers in one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from altgrad_cli.checkpoints.foreign import ForeignTensors
from altgrad_cli.errors import UsageError
from altgrad_cli.forensics.against import Comparison, compare_with
from altgrad_cli.forensics.batch_report import describe_batch
from altgrad_cli.forensics.bisection import minimal_bf16_layers
from altgrad_cli.forensics.counterfactuals import Counterfactual, format_grid, remedies
from altgrad_cli.forensics.document import Diagnosis, ForeignDiagnosis, ForeignFailure, ForeignTrust
from altgrad_cli.forensics.evidence import Evidence, open_evidence, trust_report
from altgrad_cli.forensics.failure import (
    DIVERGENCE,
    NONE,
    NONFINITE,
    NOT_JUDGED,
    STALL,
    FailureClass,
    classify,
    history_of,
    optimizer_report,
)
from altgrad_cli.forensics.findings import findings, next_command
from altgrad_cli.forensics.foreign import describe_tensors, foreign_findings, not_judged
from altgrad_cli.forensics.layer_table import Examination, examine
from altgrad_cli.forensics.lead_time import lead_time
from altgrad_cli.forensics.mechanism import (
    Attribution,
    Mechanism,
    attribute,
    explain_divergence,
    explain_nonfinite,
    explain_stall,
)
from altgrad_cli.forensics.provenance import AmaxSuspect, amax_suspects, describe_origin
from altgrad_cli.forensics.replay import not_run, replay
from altgrad_cli.forensics.scene import Scene, rebuild
from altgrad_cli.forensics.trace_again import trace_again
from altgrad_cli.formats import parse_format
from altgrad_cli.training.origin import FirstNonfinite, find_first
from altgrad_cli.training.trace_record import TraceRecord, from_plain


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
        found = open_evidence(path)
        if isinstance(found, ForeignTensors):
            return diagnose_foreign(found, questions)
        return diagnose_evidence(found, questions)
    finally:
        torch.set_num_threads(before)


def diagnose_foreign(foreign: ForeignTensors, questions: Questions) -> ForeignDiagnosis:
    """What can be said of a state dict without any evidence of how it came about."""
    asked = {"--replay": questions.replay, "--what-if": questions.what_if, "--against": questions.against}
    impossible = [option for option, given in asked.items() if given]
    if impossible:
        raise UsageError(
            f"{', '.join(impossible)} needs a checkpoint that altgrad wrote",
            where=str(foreign.path),
            hint="of a plain state dict only the values are known; give --format NAME",
        )
    fmt = None if questions.format is None else parse_format(questions.format)
    rows, left_out = describe_tensors(foreign, fmt), not_judged(foreign)
    bad = sum(row["nonfinite_weights"] for row in rows)
    kind: FailureClass = NONFINITE if bad else (NONE if rows else NOT_JUDGED)
    return ForeignDiagnosis(
        file=str(foreign.path),
        kind=foreign.kind,
        trust=ForeignTrust(verified=("record checksums",) if foreign.checksums else ()),
        failure=ForeignFailure(kind=kind, nonfinite_count=bad if rows else None),
        layers=_selected(rows, questions.layer),
        not_judged=left_out,
        findings=tuple(foreign_findings(foreign, rows, left_out, judged_on_grid=fmt is not None)),
    )


def diagnose_evidence(evidence: Evidence, questions: Questions) -> Diagnosis:
    """The diagnosis of a checkpoint that altgrad wrote."""
    if questions.format is not None:
        raise UsageError(
            "--format is for state dicts that altgrad did not write",
            where=str(evidence.path),
            hint="this checkpoint knows its formats; --what-if tries the others",
        )
    scene = rebuild(evidence, questions.data)
    records = _records(evidence, scene)
    first = find_first(records)
    suspects = amax_suspects(records)
    seen = examine(scene)
    attribution = _attribution(scene, seen)
    now = None if attribution is None else attribution.recorded
    count = sum(record.nonfinite for record in records if record.phase != "optimizer") or seen.nonfinite
    failure = classify(evidence, first, now, count)
    mechanism = _mechanism(failure.kind, evidence, first, attribution, seen, suspects)
    attempts = {} if attribution is None else attribution.attempts
    diagnosis = Diagnosis(
        file=str(evidence.path),
        run=None if evidence.run_folder is None else str(evidence.run_folder),
        trust=trust_report(evidence),
        failure=failure,
        first_nonfinite=None if first is None else describe_origin(first, scene.state, evidence.step),
        mechanism=replace(mechanism, attempts=attempts),
        amax_suspects=suspects,
        lead_time=lead_time(history_of(evidence), evidence.step),
        layers=_selected(_origin_first(seen.layers, first), questions.layer),
        optimizer=optimizer_report(scene),
        replay=replay(evidence, questions.threads) if questions.replay else not_run(),
        counterfactuals=_what_if(scene, seen) if questions.what_if else (),
        minimal_bf16_layers=_minimal(scene, questions, failure.kind, now is not None),
        batch=describe_batch(scene),
        against=_against(evidence, questions),
    )
    return replace(
        diagnosis,
        findings=tuple(findings(diagnosis)),
        next=next_command(evidence, diagnosis, questions.what_if),
    )


def _records(evidence: Evidence, scene: Scene) -> tuple[TraceRecord, ...]:
    """The recorded trace; the step traced again where there is none, or where it shows less than was seen."""
    recorded = evidence.payload.get("trace")
    if recorded:
        try:
            records = from_plain(recorded)
        except (TypeError, ValueError, KeyError):
            records = ()
        if records:
            return records
    if scene.batch is None:
        return ()
    return trace_again(scene)


def _attribution(scene: Scene, seen: Examination) -> Attribution | None:
    return None if scene.batch is None else attribute(scene, seen.shadow)


def _mechanism(
    kind: str,
    evidence: Evidence,
    first: FirstNonfinite | None,
    attribution: Attribution | None,
    seen: Examination,
    suspects: Sequence[AmaxSuspect],
) -> Mechanism:
    if kind == NONFINITE:
        struck = [fault for fault in evidence.injections.struck if fault.get("step") == evidence.step]
        return explain_nonfinite(first, attribution, suspects, struck)
    if kind == STALL:
        return explain_stall(attribution, seen.zeroed)
    if kind == DIVERGENCE:
        return explain_divergence(attribution)
    return Mechanism(None, ())


def _what_if(scene: Scene, seen: Examination) -> tuple[Counterfactual, ...]:
    if scene.batch is None:
        raise UsageError(
            "--what-if needs the batch of the step",
            where=scene.batch_origin,
            hint="give the corpus of the run (data.path), or an anomaly checkpoint",
        )
    return (*remedies(scene, seen.shadow), *format_grid(scene, seen.shadow))


def _minimal(scene: Scene, questions: Questions, kind: str, repeatable: bool) -> tuple[str, ...] | None:
    if not questions.what_if or kind != NONFINITE or not repeatable:
        return None
    return minimal_bf16_layers(scene)


def _against(evidence: Evidence, questions: Questions) -> Comparison | None:
    if questions.against is None:
        return None
    return compare_with(questions.against, history_of(evidence), evidence.step, evidence.payload["config"])


def _origin_first(rows: list[dict[str, Any]], first: FirstNonfinite | None) -> list[dict[str, Any]]:
    """The layer where it began before its victims."""
    return sorted(rows, key=lambda row: first is None or row["name"] != first.record.module)


def _selected(rows: Sequence[Mapping[str, Any]], layer: str | None) -> tuple[Mapping[str, Any], ...]:
    if layer is None:
        return tuple(rows)
    kept = tuple(row for row in rows if layer in row["name"])
    if not kept:
        raise UsageError(
            f"no layer is called {layer!r}", where="--layer", allowed=", ".join(row["name"] for row in rows)
        )
    return kept
