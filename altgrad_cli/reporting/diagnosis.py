"""A diagnosis for a reader: the verdict on one screen, then the detail, as terminal text or Markdown.

Takes the document that ``forensics.diagnosis.diagnose`` returns and adds nothing to it: every number printed
stands in the document, which ``--json`` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altgrad_cli.reporting.notation import format_value, short_layer

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first row of a reader's eye is ``header``."""

    header: Row
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A title, lines and at most one table."""

    title: str
    lines: tuple[str, ...] = ()
    table: Table | None = None


VERDICTS = {"nonfinite": "FAILED: not finite", "stall_collapse": "FAILED: stalled", "none": "healthy"}
_REMEDY_KINDS = ("recorded", "overflow", "scale", "update", "role", "input")


def verdict(document: Mapping[str, Any]) -> Section:
    """The one screen: what, where, why, whether it reproduces, what next."""
    failure, trust = document["failure"], document["trust"]
    title = f"{VERDICTS[failure['class']]}  ({document['file']})"
    rows: list[Row] = [("file", _file_words(document))]
    if failure["class"] != "none":
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


def details(document: Mapping[str, Any]) -> list[Section]:
    """Everything else, section by section; a section without content is left out."""
    if document["kind"] != "altgrad checkpoint":
        return [_foreign_layers(document), _findings(document)]
    sections = [
        _findings(document),
        _trust(document),
        _attempts(document),
        _remedies(document),
        _grid(document),
        _lead(document),
        _layers(document),
        _optimizer(document),
        _batch(document),
        _against(document),
    ]
    return [section for section in sections if section.lines or section.table is not None]


def _file_words(document: Mapping[str, Any]) -> str:
    failure = document["failure"]
    if document["kind"] != "altgrad checkpoint":
        return f"a {document['kind']} with {format_value(len(document['layers']))} tensors"
    timeline = " -> ".join(f"{name} from step {step}" for step, name in failure["formats"])
    settings = (
        f"{failure['regime']}, {failure['rounding']}, {failure['overflow']}, scale {failure['scaling']}"
    )
    return f"{timeline or failure['format']} ({settings}), before step {format_value(failure['captured_at'])}"


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
        return f"bit for bit in a new process, {replay['compared']} tensors{besides}"
    first = replay["first_difference"]
    return f"differs first at {first['role']} of {first['module']} ({first['phase']}): {first['cause']}"


def _trust_words(trust: Mapping[str, Any]) -> str:
    checks = ", ".join(trust["verified"])
    if trust["schema"] is None:
        return f"{checks} verified; written by another program"
    complete = "complete" if trust["complete"] else f"without {', '.join(trust['missing'])}"
    same = (
        "same environment"
        if trust["same_environment"]
        else f"other {', '.join(trust['environment_differences'])}"
    )
    return f"{checks} verified; {complete}; {same}"


def _findings(document: Mapping[str, Any]) -> Section:
    return Section(
        "Findings", tuple(f"{entry['severity']}: {entry['text']}" for entry in document["findings"])
    )


def _trust(document: Mapping[str, Any]) -> Section:
    trust = document["trust"]
    lines = [
        f"schema {trust['schema']}, {trust['kind']} checkpoint, created {format_value(trust['created'])}",
        f"source revision {format_value(trust['revision'])}, config {format_value(trust['config_hash'])}",
    ]
    for key, pair in trust["environment_differences"].items():
        lines.append(f"{key}: recorded {format_value(pair['recorded'])}, here {format_value(pair['here'])}")
    lines += [f"missing {name}: {reason}" for name, reason in trust["missing"].items()]
    for fault in trust["injected"]["struck"]:
        place = f"{fault['role']} of {format_value(fault['module'])} at index {format_value(fault['index'])}"
        change = f"{format_value(fault['before'])} -> {format_value(fault['after'])}"
        lines.append(f"planted: {fault['injection']} struck {place}: {change}")
    return Section("Trust", tuple(lines))


_OUTCOME_HEADER = ("survives", "stopped by", "loss", "tau", "stalled", "cosine to fp32")


def _outcome(entry: Mapping[str, Any]) -> Row:
    if entry["survives"] is None:
        return (format_value(None), entry.get("reason") or "", *[format_value(None)] * 4)
    return (
        format_value(entry["survives"]),
        entry["stopped_by"] or "",
        format_value(entry["loss"], "loss"),
        *(format_value(entry[key]) for key in ("transfer", "stall", "cosine")),
    )


def _attempts(document: Mapping[str, Any]) -> Section:
    tried = document["mechanism"]["attempts"]
    rows = tuple((name, *_outcome(outcome)) for name, outcome in tried.items())
    return Section(
        "The step again, one rounding bypassed at a time",
        (),
        Table(("change", *_OUTCOME_HEADER), rows) if rows else None,
    )


def _remedies(document: Mapping[str, Any]) -> Section:
    entries = [entry for entry in document["counterfactuals"] if entry["kind"] in _REMEDY_KINDS]
    rows = tuple((entry["change"], *_outcome(entry)) for entry in entries)
    return Section(
        "What would have saved it", (), Table(("change", *_OUTCOME_HEADER), rows) if rows else None
    )


def _grid(document: Mapping[str, Any]) -> Section:
    entries = [entry for entry in document["counterfactuals"] if entry["kind"] == "format"]
    rows = tuple(
        (entry["format"], entry["rounding"], entry["scaling"], *_outcome(entry)) for entry in entries
    )
    header = ("format", "rounding", "scale", *_OUTCOME_HEADER)
    return Section("The same step in every format", (), Table(header, rows) if rows else None)


def _lead(document: Mapping[str, Any]) -> Section:
    lead = document["lead_time"]
    lines = [f"{lead['steps_recorded']} steps recorded" + (f"; {lead['note']}" if lead["note"] else "")]
    rows = tuple(
        (
            entry["metric"],
            str(entry["step"]),
            str(entry["steps_before"]),
            format_value(entry["value"]),
            format_value(entry["high"] if entry["high"] is not None else entry["low"]),
            entry["rule"],
        )
        for entry in lead["departures"][:12]
    )
    header = ("quantity", "since step", "steps before", "value", "limit", "rule")
    return Section("Lead time", tuple(lines), Table(header, rows) if rows else None)


def _by_role(values: Mapping[str, Any] | None) -> str:
    if not values:
        return format_value(None)
    return " ".join(f"{role[0].upper()} {format_value(value)}" for role, value in values.items())


def _layers(document: Mapping[str, Any]) -> Section:
    header = (
        "layer", "stiffness", "align (ulp)", "overflow", "underflow", "not finite", "stall", "zero update",
        "tau", "sparsity", "SQNR (dB)", "codes used",
    )  # fmt: skip
    rows = tuple(
        (
            short_layer(row["name"]),
            format_value(row["stiffness_median"]),
            format_value(row["grid_error_ulp_mean"]),
            _by_role(row["overflow_rate"]),
            _by_role(row["underflow_rate"]),
            format_value((row["nonfinite_inputs"] or 0) + row["nonfinite_weights"]),
            *(
                format_value(row[key])
                for key in (
                    "bit_stall_rate",
                    "zero_update_fraction",
                    "update_transfer",
                    "gradient_sparsity",
                    "gradient_sqnr",
                    "codes_used",
                )
            ),
        )
        for row in document["layers"]
    )
    return Section("Layers, worst first", (), Table(header, rows))


def _foreign_layers(document: Mapping[str, Any]) -> Section:
    header = (
        "tensor",
        "shape",
        "dtype",
        "not finite",
        "amax",
        "zeros",
        "stiffness",
        "align (ulp)",
        "to 0",
        "codes used",
    )
    rows = tuple(
        (
            row["name"],
            "x".join(map(str, row["shape"])),
            row["dtype"],
            format_value(row["nonfinite_weights"]),
            *(
                format_value(row[key])
                for key in (
                    "amax",
                    "zero_share",
                    "stiffness_median",
                    "grid_error_ulp_mean",
                    "rounded_to_zero",
                    "codes_used",
                )
            ),
        )
        for row in document["layers"]
    )
    formats: Sequence[str] = [row["format"] for row in document["layers"] if row["format"]]
    return Section(
        "Tensors, worst first", (f"on the grid of {formats[0]}",) if formats else (), Table(header, rows)
    )


def _optimizer(document: Mapping[str, Any]) -> Section:
    state = document["optimizer"]
    rate = format_value(state["learning_rate"])
    lines = [f"{format_value(state['updates'])} updates so far, learning rate {rate}"]
    for name in ("m", "v"):
        moment = state[name]
        where = f" in {', '.join(moment['where'])}" if moment["where"] else ""
        zeros = format_value(moment["zero_share"])
        amax = format_value(moment["amax"])
        lines.append(
            f"{name}: {format_value(moment['nonfinite'])} not finite{where}, amax {amax}, zeros {zeros}"
        )
    return Section("Optimizer state", tuple(lines))


def _batch(document: Mapping[str, Any]) -> Section:
    batch = document["batch"]
    if batch is None:
        return Section("Batch")
    same = {True: "equal to the corpus", False: "NOT what the corpus holds there", None: "corpus not at hand"}
    rows = tuple(
        (
            format_value(sample["offset"]),
            format_value(sample["loss"], "loss"),
            format_value(sample["loss_fp32"], "loss"),
            format_value(sample["text"]),
        )
        for sample in batch["samples"]
    )
    lines = (f"{batch['origin']}; {same[batch['equals_corpus']]}",)
    return Section("Batch", lines, Table(("offset", "loss", "loss fp32", "text"), rows))


def _against(document: Mapping[str, Any]) -> Section:
    other = document["against"]
    if other is None:
        return Section("Against the control")
    parted = "never by more than 1 %" if other["parted_at"] is None else f"from step {other['parted_at']}"
    seed = "the same seed" if other["same_seed"] else "ANOTHER seed"
    lines = [f"{other['run']} ({format_value(other['config'])}), {seed}; losses part {parted}"]
    if other["control_at_failure"] is not None:
        lines.append(f"its loss at the failing step: {format_value(other['control_at_failure'], 'loss')}")
    rows = tuple(
        (entry["metric"], format_value(entry["here"]), format_value(entry["control"]))
        for entry in other["metrics"]
    )
    header = (f"at step {format_value(other['step'])}", "here", "control")
    return Section("Against the control", tuple(lines), Table(header, rows) if rows else None)
