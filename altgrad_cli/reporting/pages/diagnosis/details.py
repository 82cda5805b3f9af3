"""The detail of a diagnosis behind its first screen: one section a question, each from the document alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altgrad_cli.reporting.blocks.notation import MISSING, format_value, short_layer

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


_REMEDY_KINDS = ("recorded", "overflow", "scale", "update", "role", "input")


def details(document: Mapping[str, Any]) -> list[Section]:
    """Everything else, section by section; a section without content is left out."""
    if document["kind"] != "altgrad checkpoint":
        tables = [_foreign_layers(document)] if document["layers"] else []
        return [*tables, _findings(document)]
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


_OUTCOME_HEADER = ("survives", "stopped by", "loss", "tau", "stalled", "cosine")


def _outcome(entry: Mapping[str, Any]) -> Row:
    if entry["survives"] is None:
        return (format_value(None), entry.get("reason") or "", *[format_value(None)] * 4)
    return (
        format_value(entry["survives"]),
        (entry["stopped_by"] or "").replace("blocks.", ""),
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


def _worst_role(values: Mapping[str, float | None] | None) -> str:
    """The largest rate of any role, with the role's letter unless it is 0."""
    measured = {role: value for role, value in (values or {}).items() if value is not None}
    if not measured:
        return format_value(None)
    role = max(measured, key=lambda name: measured[name])
    return f"{role[0].upper()} {format_value(measured[role])}" if measured[role] else format_value(0.0)


_LAYER_LEGEND = (
    "gap: median stiffness; ulp: mean |w - Q(w)| in gaps; over, under: overflow and underflow rate of the",
    "worst role (W, A, G); bad: values not finite; zero-up: zero-update fraction; sparse: |g| < 1e-8",
)
_LAYER_HEADER = (
    *("layer", "gap", "ulp", "over", "under", "bad"),
    *("stall", "zero-up", "tau", "sparse", "SQNR", "codes"),
)


def without_empty_columns(table: Table) -> Table:
    """``table`` without the columns in which nothing was measured."""
    kept = [n for n in range(len(table.header)) if any(row[n] not in ("", MISSING) for row in table.rows)]
    return Table(
        tuple(table.header[n] for n in kept), tuple(tuple(row[n] for n in kept) for row in table.rows)
    )


def _layers(document: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            short_layer(row["name"]),
            format_value(row["stiffness_median"]),
            format_value(row["grid_error_ulp_mean"]),
            _worst_role(row["overflow_rate"]),
            _worst_role(row["underflow_rate"]),
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
    return Section("Layers, worst first", _LAYER_LEGEND, without_empty_columns(Table(_LAYER_HEADER, rows)))


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
