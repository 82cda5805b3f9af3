"""From evidence to sentences: what a reader should know first, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from altgrad_cli.forensics.evidence import Evidence
from altgrad_cli.forensics.failure import DIVERGENCE, NONFINITE, STALL

Severity = Literal["failure", "warning", "note"]
_PREFERRED = ("overflow", "scale", "update", "role", "format")


def findings(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """The ``findings`` of the diagnosis, most important first."""
    found: list[tuple[Severity, str]] = [*_failure(document), *_trust(document), *_suspects(document)]
    found += _rescue(document)
    lead = document["lead_time"]
    if document["failure"]["class"] != "none" and lead["first"] is not None:
        first = lead["first"]
        before = f"{first['steps_before']} steps before the step at hand"
        found.append(("note", f"{first['metric']} left its {first['rule']} {before}"))
    elif document["failure"]["class"] == NONFINITE and lead["note"]:
        found.append(("note", lead["note"]))
    found.append(("note", "one step of one seed: what saves this step need not save the run"))
    return [{"severity": severity, "text": text} for severity, text in found]


def _failure(document: Mapping[str, Any]) -> list[tuple[Severity, str]]:
    failure, mechanism = document["failure"], document["mechanism"]
    if failure["class"] == NONFINITE:
        first = document["first_nonfinite"]
        found: list[tuple[Severity, str]] = [("failure", f"step {failure['step']}: {failure['trigger']}")]
        if first is not None and first["value_before_rounding"] is not None:
            grid = f"{first['format']}, scale {first['scale']:.4g}"
            rounded = f"{first['value_before_rounding']:.6g} was rounded to {first['value']} ({grid})"
            found.append(("failure", rounded))
        elif first is not None:
            found.append(("failure", first["explanation"]))
        return [*found, ("failure", f"mechanism: {mechanism['stage']}")]
    if failure["class"] == STALL:
        return [
            ("failure", f"stalled: {failure['trigger']}; non-finite values: {failure['nonfinite_count']}"),
            ("failure", f"mechanism: {mechanism['stage']}"),
        ]
    if failure["class"] == DIVERGENCE:
        return [("failure", failure["trigger"]), ("failure", f"mechanism: {mechanism['stage']}")]
    return [("note", "healthy: loss, gradient, quantiser inputs and update of this step are finite")]


def _trust(document: Mapping[str, Any]) -> list[tuple[Severity, str]]:
    trust = document["trust"]
    found: list[tuple[Severity, str]] = []
    planned = trust["injected"]["planned"]
    if planned:
        found.append(("warning", f"this run has planted faults: {', '.join(planned)}"))
    found += [("warning", f"missing: {name} ({reason})") for name, reason in trust["missing"].items()]
    if trust["codes_agree"] is False:
        found.append(("warning", "stored codes and float32 carrier disagree: a weight changed in memory"))
    if not trust["same_environment"]:
        names = ", ".join(trust["environment_differences"])
        found.append(("note", f"another environment than recorded ({names}): a replay may differ"))
    replay = document["replay"]
    if replay["ran"] and replay["bit_exact"]:
        what = "the eager form of this compiled step was " if replay["compiled"] else ""
        tensors = f"({replay['compared']} tensors)"
        found.append(("note", f"{what}reproduced bit for bit in a new process {tensors}"))
    elif replay["ran"]:
        found.append(("warning", f"not reproduced: {replay['first_difference']['cause']}"))
    elif replay["reason"]:
        found.append(("warning", f"no replay: {replay['reason']}"))
    batch = document["batch"]
    if batch is not None and batch["equals_corpus"] is False:
        found.append(("warning", "the batch is not what the corpus holds at its offsets"))
    if not document["optimizer"]["sound"]:
        found.append(("failure", "the optimizer state is poisoned: go back to an earlier checkpoint"))
    return found


def _suspects(document: Mapping[str, Any]) -> list[tuple[Severity, str]]:
    found: list[tuple[Severity, str]] = []
    for suspect in document["amax_suspects"]:
        place = f"{suspect['role']} of {suspect['module']}"
        found.append(("warning", f"the amax history of {place} is {suspect['factor']:.3g} times too small"))
    return found


def _rescue(document: Mapping[str, Any]) -> list[tuple[Severity, str]]:
    if document["failure"]["class"] != NONFINITE:
        return []
    found: list[tuple[Severity, str]] = []
    saved = [
        entry["change"]
        for entry in document["counterfactuals"]
        if entry["survives"] and entry["kind"] != "format"
    ]
    if saved:
        found.append(("note", f"it survives with: {'; '.join(saved[:6])}"))
    layers = document["minimal_bf16_layers"]
    if layers:
        found.append(
            (
                "note",
                f"it survives with these layers in BF16, and with none of them left out: {', '.join(layers)}",
            )
        )
    return found


def next_command(evidence: Evidence, document: Mapping[str, Any], what_if: bool) -> dict[str, Any]:
    """The ``next`` of the diagnosis: one command and why."""
    kind = document["failure"]["class"]
    run = evidence.run_folder
    file = shlex.quote(str(evidence.path))
    if kind == NONFINITE and not what_if and document["mechanism"]["stage"] != "not the format's fault":
        command = f"altgrad diagnose-checkpoint {file} --replay --what-if"
        return {"command": command, "why": "see what would have saved this step"}
    if run is None:
        again = f"altgrad diagnose-checkpoint {file} --what-if"
        return {
            "command": again,
            "why": "the run's folder is not beside this file, so it cannot be resumed from here",
        }
    resume = f"altgrad train --resume {shlex.quote(str(run))}"
    if kind == NONFINITE:
        overrides = rescuing_overrides(document["counterfactuals"], document["minimal_bf16_layers"])
        why = "from the last good state, with the least change that saved this step"
        if not overrides:
            why = "from the last good checkpoint: no setting saved this step"
        return {"command": " ".join([resume, *map(shlex.quote, overrides)]), "why": why}
    if kind == STALL:
        return {
            "command": f"{resume} precision.rounding=stochastic",
            "why": "stochastic rounding of the update lets small steps through in expectation",
        }
    if kind == DIVERGENCE:
        rate = evidence.config.learning_rate / 10
        return {
            "command": f"{resume} learning_rate={rate:g}",
            "why": "a smaller step, to see whether the loss falls",
        }
    return {"command": resume, "why": "nothing is wrong with this state"}


def rescuing_overrides(
    counterfactuals: Sequence[Mapping[str, Any]], minimal_layers: Sequence[str] | None
) -> list[str]:
    """The overrides of the mildest change that survives."""
    surviving = [entry for entry in counterfactuals if entry["survives"] and entry["overrides"]]
    for kind in _PREFERRED[:2]:
        for entry in surviving:
            if entry["kind"] == kind:
                return list(entry["overrides"])
    if minimal_layers:
        rules = ", ".join(f'{{pattern: "{name}", format: BF16}}' for name in minimal_layers)
        return [f"precision.rules=[{rules}]"]
    for kind in _PREFERRED[2:]:
        for entry in surviving:
            if entry["kind"] == kind:
                return list(entry["overrides"])
    return []
