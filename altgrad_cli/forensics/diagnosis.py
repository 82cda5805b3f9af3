"""The whole diagnosis of one file as one document of plain values: what ``--json`` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from altgrad_cli.checkpoints.foreign import ForeignTensors
from altgrad_cli.errors import UsageError
from altgrad_cli.forensics.against import compare_with
from altgrad_cli.forensics.batch_report import describe_batch
from altgrad_cli.forensics.bisection import minimal_bf16_layers
from altgrad_cli.forensics.counterfactuals import Counterfactual, format_grid, remedies
from altgrad_cli.forensics.evidence import Evidence, open_evidence, trust_report
from altgrad_cli.forensics.failure import (
    DIVERGENCE,
    NONFINITE,
    NOT_JUDGED,
    STALL,
    classify,
    history_of,
    optimizer_report,
)
from altgrad_cli.forensics.findings import findings, next_command
from altgrad_cli.forensics.foreign import FLOAT32_MAX, describe_tensors, not_judged
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
from altgrad_cli.forensics.provenance import amax_suspects, first_nonfinite_json
from altgrad_cli.forensics.replay import Replay, not_run, replay
from altgrad_cli.forensics.scene import Scene, rebuild
from altgrad_cli.forensics.trace_again import trace_again
from altgrad_cli.formats import parse_format
from altgrad_cli.training.origin import FirstNonfinite, find_first
from altgrad_cli.training.trace_record import TraceRecord, from_plain

SCHEMA = "altgrad.diagnose-checkpoint/1"


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


def diagnose(path: Path, questions: Questions) -> dict[str, Any]:
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


def diagnose_foreign(foreign: ForeignTensors, questions: Questions) -> dict[str, Any]:
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
    kind = NONFINITE if bad else ("none" if rows else NOT_JUDGED)
    return {
        "file": str(foreign.path),
        "kind": foreign.kind,
        "trust": {
            "schema": None,
            "verified": ["record checksums"] if foreign.checksums else [],
            "complete": None,
            "injected": None,
        },
        "failure": {"class": kind, "step": None, "nonfinite_count": bad if rows else None},
        "first_nonfinite": None,
        "mechanism": {"stage": None, "evidence": [], "attempts": {}},
        "layers": _selected(rows, questions.layer),
        "replay": not_run().to_json(),
        "counterfactuals": [],
        "minimal_bf16_layers": None,
        "not_judged": left_out,
        "findings": _foreign_findings(foreign, rows, left_out, judged_on_grid=fmt is not None),
    }


def _foreign_findings(
    foreign: ForeignTensors, rows: list[dict[str, Any]], left_out: list[dict[str, Any]], judged_on_grid: bool
) -> list[dict[str, str]]:
    notes: list[tuple[str, str]] = []
    bad = sum(row["nonfinite_weights"] for row in rows)
    if bad:
        notes.append(("failure", f"{bad} non-finite values, most of them in {rows[0]['name']}"))
    if not rows:
        notes.append(("warning", f"nothing to judge: all {len(left_out)} tensors are left out"))
    for row in rows:
        if row["amax"] > FLOAT32_MAX:
            words = f"{row['name']}: amax {row['amax']:.4g} is finite, and beyond float32 ({FLOAT32_MAX:.4g})"
            notes.append(("warning", f"{words}, so no grid is measured: a float32 carrier would hold inf"))
    if foreign.names_schema:
        words = (
            "it has altgrad's schema and not altgrad's seal: changed, cut or saved again by another program"
        )
        notes.append(("warning", words))
    for reason in dict.fromkeys(entry["reason"] for entry in left_out):
        names = [entry["name"] for entry in left_out if entry["reason"] == reason]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        tensors = "tensor" if len(names) == 1 else "tensors"
        severity = "note" if reason in ("no values", "no floating-point values") else "warning"
        words = f"{len(names)} {tensors} not judged ({reason}): {', '.join(names[:4])}{more}"
        notes.append((severity, words))
    notes.append(("note", f"a {foreign.kind}: only its values are known, not how they came about"))
    if not judged_on_grid:
        notes.append(("note", "--format NAME adds stiffness, alignment and code use"))
    return [{"severity": severity, "text": text} for severity, text in notes]


def diagnose_evidence(evidence: Evidence, questions: Questions) -> dict[str, Any]:
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
    mechanism = _mechanism(failure["class"], evidence, first, attribution, seen, suspects)
    tried = _what_if(scene, seen) if questions.what_if else []
    document: dict[str, Any] = {
        "file": str(evidence.path),
        "kind": "altgrad checkpoint",
        "run": None if evidence.run_folder is None else str(evidence.run_folder),
        "trust": trust_report(evidence),
        "failure": failure,
        "first_nonfinite": None if first is None else first_nonfinite_json(first, scene.state, evidence.step),
        "mechanism": mechanism.to_json(attribution),
        "amax_suspects": list(suspects),
        "lead_time": lead_time(history_of(evidence), evidence.step),
        "layers": _selected(_origin_first(seen.layers, first), questions.layer),
        "optimizer": optimizer_report(scene),
        "replay": _replay(evidence, questions).to_json(),
        "counterfactuals": [entry.to_json() for entry in tried],
        "minimal_bf16_layers": _minimal(scene, questions, failure["class"], now is not None),
        "batch": describe_batch(scene),
        "against": _against(evidence, questions),
    }
    document["findings"] = findings(document)
    document["next"] = next_command(evidence, document, questions.what_if)
    return document


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
    suspects: list[Any],
) -> Mechanism:
    if kind == NONFINITE:
        struck = [fault for fault in evidence.injections["struck"] if fault.get("step") == evidence.step]
        return explain_nonfinite(first, attribution, suspects, struck)
    if kind == STALL:
        return explain_stall(attribution, seen.zeroed)
    if kind == DIVERGENCE:
        return explain_divergence(attribution)
    return Mechanism(None, ())


def _what_if(scene: Scene, seen: Examination) -> list[Counterfactual]:
    if scene.batch is None:
        raise UsageError(
            "--what-if needs the batch of the step",
            where=scene.batch_origin,
            hint="give the corpus of the run (data.path), or an anomaly checkpoint",
        )
    return [*remedies(scene, seen.shadow), *format_grid(scene, seen.shadow)]


def _minimal(scene: Scene, questions: Questions, kind: str, repeatable: bool) -> list[str] | None:
    if not questions.what_if or kind != NONFINITE or not repeatable:
        return None
    found = minimal_bf16_layers(scene)
    return None if found is None else list(found)


def _replay(evidence: Evidence, questions: Questions) -> Replay:
    return replay(evidence, questions.threads) if questions.replay else not_run()


def _against(evidence: Evidence, questions: Questions) -> dict[str, Any] | None:
    if questions.against is None:
        return None
    return compare_with(questions.against, history_of(evidence), evidence.step, evidence.payload["config"])


def _origin_first(rows: list[dict[str, Any]], first: FirstNonfinite | None) -> list[dict[str, Any]]:
    """The layer where it began before its victims."""
    return sorted(rows, key=lambda row: first is None or row["name"] != first.record.module)


def _selected(rows: list[dict[str, Any]], layer: str | None) -> list[dict[str, Any]]:
    if layer is None:
        return rows
    kept = [row for row in rows if layer in row["name"]]
    if not kept:
        raise UsageError(
            f"no layer is called {layer!r}", where="--layer", allowed=", ".join(row["name"] for row in rows)
        )
    return kept
