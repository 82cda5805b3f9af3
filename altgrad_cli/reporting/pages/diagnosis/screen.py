"""The first screen of a diagnosis: what failed, where, why, whether it reproduces, what next.

Takes the document that ``forensics.diagnosis.diagnose`` returns and adds nothing to it: every number printed
stands in the document, which ``--json`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altgrad_cli.reporting.blocks.notation import format_value
from altgrad_cli.reporting.pages.diagnosis.details import Row, Section, Table

VERDICTS = {
    "nonfinite": "FAILED: not finite",
    "stall_collapse": "FAILED: stalled",
    "divergence": "diverging",
    "none": "healthy",
    "not_judged": "nothing to judge",
}


def verdict(document: Mapping[str, Any]) -> Section:
    """The one screen: what, where, why, whether it reproduces, what next."""
    failure, trust = document["failure"], document["trust"]
    title = f"{VERDICTS[failure['class']]}  ({document['file']})"
    rows: list[Row] = [("file", _file_words(document))]
    if failure["class"] not in ("none", "not_judged"):
        rows.append(
            ("what", f"step {format_value(failure['step'])}: {failure.get('trigger', 'non-finite values')}")
        )
    first = document["first_nonfinite"]
    if first is not None:
        rows.append(("where", _place(first)))
        rows.append(("origin", _origin(first)))
        rows.append(("passed on", _passed_on(first)))
    mechanism = document["mechanism"]
    if mechanism["stage"] is not None:
        rows.append(("mechanism", mechanism["stage"]))
        rows += [("", line) for line in mechanism["evidence"]]
    lead = document.get("lead_time")
    if lead is not None and failure["class"] != "none":
        rows.append(("lead time", _lead_words(lead)))
    rows.append(("replay", _replay_words(document["replay"])))
    survivors = [entry["change"] for entry in document["counterfactuals"] if entry["survives"]]
    if failure["class"] == "nonfinite" and document["counterfactuals"]:
        remedies = [
            entry for entry in document["counterfactuals"] if entry["kind"] != "format" and entry["survives"]
        ]
        words = "; ".join(entry["change"] for entry in remedies[:5]) or "nothing that was tried"
        rows.append(("saved by", words if survivors else "nothing that was tried"))
        layers = document["minimal_bf16_layers"]
        rows.append(
            ("in BF16", "no set of layers suffices" if layers is None else ", ".join(layers) or "none needed")
        )
    rows.append(("trust", _trust_words(trust)))
    rows += [
        (finding["severity"], finding["text"])
        for finding in document["findings"]
        if finding["severity"] == "warning"
    ]
    if document.get("next") is not None:
        rows.append(("next", document["next"]["command"]))
        rows.append(("", document["next"]["why"]))
    return Section(title, table=Table(("", ""), tuple(rows)))


def _file_words(document: Mapping[str, Any]) -> str:
    failure = document["failure"]
    if document["kind"] != "altgrad checkpoint":
        judged, left_out = len(document["layers"]), len(document["not_judged"])
        aside = f", {format_value(left_out)} more not judged" if left_out else ""
        tensors = "tensor" if judged == 1 else "tensors"
        return f"a {document['kind']} with {format_value(judged)} {tensors}{aside}"
    later = "".join(f" -> {name} after step {step}" for step, name in failure["formats"][1:])
    formats = f"{failure['formats'][0][1]}{later}" if failure["formats"] else failure["format"]
    settings = (
        f"{failure['regime']}, {failure['rounding']}, {failure['overflow']}, scale {failure['scaling']}"
    )
    step = failure["captured_at"]
    when = f"before step {step}" if document["trust"]["kind"] == "anomaly" else f"after step {step - 1}"
    return f"{format_value(formats)} ({settings}), the state {when}"


def _place(first: Mapping[str, Any]) -> str:
    coordinates = first["coordinates"]
    place = (
        f"index {first['index']}" if coordinates is None else f"row {coordinates[0]}, column {coordinates[1]}"
    )
    return f"{first['phase']} phase, {first['role']} of {first['module']}, {place} ({first['count']} values)"


def _origin(first: Mapping[str, Any]) -> str:
    inputs = "inputs finite" if first["input_finite"] else "inputs not finite"
    if first["value_before_rounding"] is None:
        return f"{format_value(first['value'])}; {inputs}: {first['explanation']}"
    code = "" if first["code"] is None else f", code {first['code']:#04x}"
    before = f"{first['value_before_rounding']:.6g}"
    grid = f"{first['format']}, scale {first['scale']:.4g}{code}"
    return f"{before} -> {format_value(first['value'])} ({grid}); {inputs}: {first['explanation']}"


def _passed_on(first: Mapping[str, Any]) -> str:
    places = [f"{place['role']} of {place['module']}" for place in first["passed_on"]]
    if not places:
        return "to nothing"
    more = f", and {len(places) - 3} more" if len(places) > 3 else ""
    return f"to {', '.join(places[:3])}{more}"


def _lead_words(lead: Mapping[str, Any]) -> str:
    first = lead["first"]
    if first is None:
        return str(lead["note"])
    limit = first["high"] if first["high"] is not None else first["low"]
    side = "above" if first["high"] is not None else "below"
    value = format_value(first["value"])
    left = f"{first['metric']} at {value}, {side} its {first['rule']} ({format_value(limit)})"
    return f"{first['steps_before']} steps: {left}"


def _replay_words(replay: Mapping[str, Any]) -> str:
    if not replay["ran"]:
        return replay["reason"] or "not asked for (--replay)"
    if replay["bit_exact"]:
        different = ", ".join(replay["environment_differences"])
        besides = f", although {different} differ" if different else ""
        of = (
            " of the compiled step's eager form, which is numerically close" if replay.get("compiled") else ""
        )
        return f"bit for bit in a new process, {replay['compared']} tensors{of}{besides}"
    first = replay["first_difference"]
    return f"differs first at {first['role']} of {first['module']} ({first['phase']}): {first['cause']}"


def _trust_words(trust: Mapping[str, Any]) -> str:
    checks = ", ".join(trust["verified"])
    if trust["schema"] is None:
        verified = f"{checks} verified" if checks else "nothing verified: this kind of file has no checksums"
        return f"{verified}; written by another program"
    complete = "complete" if trust["complete"] else f"without {', '.join(trust['missing'])}"
    same = (
        "same environment"
        if trust["same_environment"]
        else f"other {', '.join(trust['environment_differences'])}"
    )
    return f"{checks} verified; {complete}; {same}"
