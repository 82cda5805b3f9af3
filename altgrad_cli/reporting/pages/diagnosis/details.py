"""The detail of a diagnosis behind its first screen: one section a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from altgrad_cli.forensics.against import Comparison
from altgrad_cli.forensics.batch_report import BatchReport
from altgrad_cli.forensics.document import Diagnosis, ForeignDiagnosis
from altgrad_cli.forensics.failure import OptimizerReport
from altgrad_cli.forensics.lead_time import LeadTime
from altgrad_cli.forensics.opened import Trust
from altgrad_cli.forensics.step_again.variations import Outcome
from altgrad_cli.metrics.thresholds import DEAD_GRADIENT
from altgrad_cli.notation import format_value, short_layer
from altgrad_cli.reporting.blocks.document import Section, Text, bullets, plain_table, section

_OUTCOME = ("survives", "stopped by", "loss", "tau", "stalled", "cosine")
_LAYER_LEGEND = (
    "gap: median stiffness; ulp: mean |w - Q(w)| in gaps; over, under: overflow and underflow rate of the "
    "worst role (W, A, G); bad: values not finite; zero-up: zero-update fraction; "
    f"sparse: |g| < {format_value(DEAD_GRADIENT)}"
)


def details(diagnosis: Diagnosis) -> Iterator[Section | None]:
    """Everything behind the findings, section by section."""
    yield _trust(diagnosis.trust)
    attempts = [(name, *_outcome(outcome)) for name, outcome in diagnosis.mechanism.attempts.items()]
    table = plain_table(("change", *_OUTCOME), attempts)
    yield section("The step again, one rounding bypassed at a time", table)
    yield from tried(diagnosis)
    yield _lead(diagnosis.lead_time)
    yield _layers(diagnosis)
    yield _optimizer(diagnosis.optimizer)
    if diagnosis.batch is not None:
        yield _batch(diagnosis.batch)
    if diagnosis.against is not None:
        yield _against(diagnosis.against)


def tried(diagnosis: Diagnosis | ForeignDiagnosis) -> Iterator[Section | None]:
    """The step under every change that was tried."""
    remedies = [
        (entry.change, *_outcome(entry.outcome, entry.reason))
        for entry in diagnosis.counterfactuals
        if entry.kind != "format"
    ]
    yield section("What would have saved it", plain_table(("change", *_OUTCOME), remedies))
    grid = [
        (entry.format, entry.rounding, entry.scaling, *_outcome(entry.outcome, entry.reason))
        for entry in diagnosis.counterfactuals
        if entry.kind == "format"
    ]
    table = plain_table(("format", "rounding", "scale", *_OUTCOME), grid)
    yield section("The same step in every format", table)


def layer_fits(diagnosis: ForeignDiagnosis) -> Section | None:
    """The relative error of each layer's weights on each format."""
    formats = list(dict.fromkeys(fit.format for fit in diagnosis.fits))
    errors = {(fit.layer, fit.format): fit.relative_error for fit in diagnosis.fits}
    layers = dict.fromkeys(fit.layer for fit in diagnosis.fits)
    rows = [(layer, *(errors[layer, format] for format in formats)) for layer in layers]
    words = Text("The error of the rounded weights, |Q(w) - w| / |w|, on one power-of-two scale a layer.")
    return (
        section("How each layer's weights fit", words, plain_table(("layer", *formats), rows))
        if rows
        else None
    )


def findings(diagnosis: Diagnosis | ForeignDiagnosis) -> Section | None:
    """The sentences, most important first."""
    lines = (f"{finding.severity}: {finding.text}" for finding in diagnosis.findings)
    return section("Findings", bullets(lines))


def foreign_layers(diagnosis: ForeignDiagnosis) -> Section | None:
    """One row a tensor of a file that another program wrote."""
    headers = (
        *("tensor", "shape", "dtype", "not finite", "amax"),
        *("zeros", "stiffness", "align (ulp)", "to 0", "codes used"),
    )
    rows = [
        (
            *(row.name, "x".join(map(str, row.shape)), row.dtype),
            *(row.nonfinite_weights, row.amax, row.zero_share),
            *(row.grid.stiffness_median, row.grid.grid_error_ulp_mean),
            *(row.grid.rounded_to_zero, row.grid.codes_used),
        )
        for row in diagnosis.layers
    ]
    grids = [row.format for row in diagnosis.layers if row.format]
    words = [f"on the grid of {grids[0]}"] if grids else []
    return section("Tensors, worst first", bullets(words), plain_table(headers, rows))


def _outcome(outcome: Outcome | None, reason: str | None = None) -> tuple[object, ...]:
    if outcome is None:
        return (None, reason, None, None, None, None)
    stopped = outcome.stopped_by.replace("blocks.", "") if outcome.stopped_by else ""
    return (outcome.survives, stopped, outcome.loss, outcome.transfer, outcome.stall, outcome.cosine)


def _trust(trust: Trust) -> Section | None:
    lines = [
        f"schema {trust.schema}, {trust.kind} checkpoint, created {format_value(trust.created)}",
        f"source revision {format_value(trust.revision)}, config {trust.config_hash}",
    ]
    for key, pair in trust.environment_differences.items():
        lines.append(f"{key}: recorded {format_value(pair['recorded'])}, here {format_value(pair['here'])}")
    lines += [f"missing {name}: {reason}" for name, reason in trust.missing.items()]
    for fault in trust.injected.struck:
        place = f"{fault.role} of {format_value(fault.module)} at index {format_value(fault.index)}"
        change = f"{format_value(fault.before)} -> {format_value(fault.after)}"
        lines.append(f"planted: {fault.injection} struck {place}: {change}")
    return section("Trust", bullets(lines))


def _lead(lead: LeadTime) -> Section | None:
    rows = [
        (
            *(left.metric, left.step, left.steps_before, left.value),
            *(left.high if left.high is not None else left.low, left.rule),
        )
        for left in lead.departures[:12]
    ]
    words = f"{lead.steps_recorded} steps recorded" + (f"; {lead.note}" if lead.note else "")
    headers = ("quantity", "since step", "steps before", "value", "limit", "rule")
    return section("Lead time", bullets([words]), plain_table(headers, rows))


def _worst_role(values: Mapping[str, float] | None) -> str:
    """The largest rate of any role, with the role's letter unless it is 0."""
    measured = {role: value for role, value in (values or {}).items() if value is not None}
    if not measured:
        return format_value(None)
    role = max(measured, key=lambda name: measured[name])
    return f"{role[0].upper()} {format_value(measured[role])}" if measured[role] else format_value(0.0)


def _layers(diagnosis: Diagnosis) -> Section | None:
    headers = (
        *("layer", "gap", "ulp", "over", "under", "bad"),
        *("stall", "zero-up", "tau", "sparse", "SQNR", "codes"),
    )
    rows = [
        (
            *(short_layer(row.name), row.grid.stiffness_median, row.grid.grid_error_ulp_mean),
            *(_worst_role(row.overflow_rate), _worst_role(row.underflow_rate)),
            *(row.nonfinite, row.bit_stall_rate),
            *(row.zero_update_fraction, row.update_transfer, row.gradient_sparsity),
            *(row.gradient_sqnr, row.grid.codes_used),
        )
        for row in diagnosis.layers
    ]
    return section("Layers, worst first", bullets([_LAYER_LEGEND]), plain_table(headers, rows))


def _optimizer(state: OptimizerReport) -> Section | None:
    updates, rate = format_value(state.updates), format_value(state.learning_rate)
    lines = [f"{updates} updates so far, learning rate {rate}"]
    for name, slot in state.slots.items():
        where = f" in {', '.join(slot.where)}" if slot.where else ""
        amax, zeros = format_value(slot.amax), format_value(slot.zero_share)
        lines.append(f"{name}: {format_value(slot.nonfinite)} not finite{where}, amax {amax}, zeros {zeros}")
    return section("Optimizer state", bullets(lines))


def _batch(batch: BatchReport) -> Section | None:
    same = {True: "equal to the corpus", False: "NOT what the corpus holds there", None: "corpus not at hand"}
    rows = [
        (sample.offset, sample.loss, format_value(sample.loss_fp32, "loss"), sample.text)
        for sample in batch.samples
    ]
    words = f"{batch.origin}; {same[batch.equals_corpus]}"
    headers = ("offset", "loss", "loss fp32", "text")
    return section("Batch", bullets([words]), plain_table(headers, rows))


def _against(other: Comparison) -> Section | None:
    parted = "never by more than 1 %" if other.parted_at is None else f"from step {other.parted_at}"
    seed = "the same seed" if other.same_seed else "ANOTHER seed"
    lines = [f"{other.run} ({format_value(other.config)}), {seed}; losses part {parted}"]
    if other.control_at_failure is not None:
        lines.append(f"its loss at the failing step: {format_value(other.control_at_failure, 'loss')}")
    headers = (f"at step {format_value(other.step)}", "here", "control")
    rows = [(pair.metric, pair.here, pair.control) for pair in other.metrics]
    return section("Against the control", bullets(lines), plain_table(headers, rows))
