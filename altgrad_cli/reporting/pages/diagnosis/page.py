"""A diagnosis as a report: its first screen, then one section a question.

The first screen says what failed, where, why, whether it reproduces, and what next. Every number stands in
the diagnosis, which ``--json`` prints; nothing is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from altgrad_cli.forensics.document import Diagnosis, ForeignDiagnosis
from altgrad_cli.forensics.failure import NONE, NONFINITE, Failure
from altgrad_cli.forensics.lead_time import LeadTime
from altgrad_cli.forensics.opened import Trust
from altgrad_cli.forensics.provenance import Origin
from altgrad_cli.forensics.step_again.replay import Replay
from altgrad_cli.notation import format_value, one_line
from altgrad_cli.reporting.blocks.document import Report, Section, plain_table, section
from altgrad_cli.reporting.pages.diagnosis.details import details, findings, foreign_layers, layer_fits, tried

VERDICTS = {
    "nonfinite": "FAILED: not finite",
    "stall_collapse": "FAILED: stalled",
    "divergence": "diverging",
    "none": "healthy",
    "not_judged": "nothing to judge",
}
Line = tuple[str, str]


def diagnosis_page(diagnosis: Diagnosis | ForeignDiagnosis) -> Report:
    """The whole page; a section without content is left out."""
    title = one_line(f"{VERDICTS[diagnosis.failure.kind]}  ({diagnosis.file})")
    if isinstance(diagnosis, ForeignDiagnosis):
        sections = [_foreign_screen(diagnosis), foreign_layers(diagnosis), layer_fits(diagnosis)]
        sections += [*tried(diagnosis), findings(diagnosis)]
    else:
        sections = [_screen(_answers(diagnosis)), findings(diagnosis), *details(diagnosis)]
    return Report(title, tuple(filter(None, sections)))


def _foreign_screen(diagnosis: ForeignDiagnosis) -> Section | None:
    judged, left_out = len(diagnosis.layers), len(diagnosis.not_judged)
    aside = f", {format_value(left_out)} more not judged" if left_out else ""
    tensors = "tensor" if judged == 1 else "tensors"
    lines = [("file", f"a {diagnosis.kind} with {format_value(judged)} {tensors}{aside}")]
    if diagnosis.failure.kind == NONFINITE:
        lines.append(("what", f"{format_value(diagnosis.failure.nonfinite_count)} values are not finite"))
    if diagnosis.first_nonfinite is not None:
        lines += _origin(diagnosis.first_nonfinite)
    checks = ", ".join(diagnosis.trust.verified)
    verified = f"{checks} verified" if checks else "nothing verified: this kind of file has no checksums"
    lines.append(("trust", f"{verified}; written by another program"))
    return _screen([*lines, *_warnings(diagnosis)])


def _screen(lines: Iterable[Line]) -> Section | None:
    return section("At a glance", plain_table(("", ""), lines))


def _warnings(diagnosis: Diagnosis | ForeignDiagnosis) -> Iterator[Line]:
    for finding in diagnosis.findings:
        if finding.severity == "warning":
            yield finding.severity, finding.text


def _answers(diagnosis: Diagnosis) -> Iterator[Line]:
    failure, mechanism = diagnosis.failure, diagnosis.mechanism
    yield "file", _state_words(failure, diagnosis.trust)
    if failure.kind != NONE:
        yield "what", f"step {failure.step}: {failure.trigger}"
    if diagnosis.first_nonfinite is not None:
        yield from _origin(diagnosis.first_nonfinite)
    if mechanism.stage is not None:
        yield "mechanism", mechanism.stage
        yield from (("", line) for line in mechanism.evidence)
    if failure.kind != NONE:
        yield "lead time", _lead_words(diagnosis.lead_time)
    yield "replay", _replay_words(diagnosis.replay)
    if failure.kind == NONFINITE and diagnosis.counterfactuals:
        entries = [entry for entry in diagnosis.counterfactuals if entry.kind != "format" and entry.survives]
        yield "saved by", "; ".join(entry.change for entry in entries[:5]) or "nothing that was tried"
        layers = diagnosis.minimal_bf16_layers
        yield "in BF16", "no set of layers suffices" if layers is None else ", ".join(layers) or "none needed"
    yield "trust", _trust_words(diagnosis.trust)
    yield from _warnings(diagnosis)
    if diagnosis.next is not None:
        yield "next", diagnosis.next.command
        yield "", diagnosis.next.why


def _state_words(failure: Failure, trust: Trust) -> str:
    later = "".join(f" -> {name} after step {step}" for step, name in failure.formats[1:])
    formats = f"{failure.formats[0][1]}{later}" if failure.formats else failure.format
    settings = f"{failure.regime}, {failure.rounding}, {failure.overflow}, scale {failure.scaling}"
    step = failure.captured_at
    when = f"before step {step}" if trust.kind == "anomaly" else f"after step {step - 1}"
    return f"{formats} ({settings}), the state {when}"


def _origin(first: Origin) -> Iterator[Line]:
    place = f"index {first.index}"
    if first.coordinates is not None:
        place = "row {}, column {}".format(*first.coordinates)
    yield "where", f"{first.phase} phase, {first.role} of {first.module}, {place} ({first.count} values)"
    inputs = "inputs finite" if first.input_finite else "inputs not finite"
    value = format_value(first.value)
    if first.value_before_rounding is not None:
        code = "" if first.code is None else f", code {first.code:#04x}"
        grid = f"{first.format}, scale {first.scale:.4g}{code}"
        value = f"{first.value_before_rounding:.6g} -> {value} ({grid})"
    yield "origin", f"{value}; {inputs}: {first.explanation}"
    places = [f"{place.role} of {place.module}" for place in first.passed_on]
    more = f", and {len(places) - 3} more" if len(places) > 3 else ""
    yield "passed on", f"to {', '.join(places[:3])}{more}" if places else "to nothing"


def _lead_words(lead: LeadTime) -> str:
    first = lead.first
    if first is None:
        return str(lead.note)
    limit, side = (first.high, "above") if first.high is not None else (first.low, "below")
    left = f"{first.metric} at {format_value(first.value)}, {side} its {first.rule} ({format_value(limit)})"
    return f"{first.steps_before} steps: {left}"


def _replay_words(replay: Replay) -> str:
    if not replay.ran:
        return replay.reason or "not asked for (--replay)"
    first = replay.first_difference
    if first is not None:
        return f"differs first at {first.role} of {first.module} ({first.phase}): {first.cause}"
    different = ", ".join(replay.environment_differences)
    besides = f", although {different} differ" if different else ""
    of = " of the compiled step's eager form, which is numerically close" if replay.compiled else ""
    if replay.ranks > 1:
        of += f" of the step of {replay.ranks} ranks as one process takes it, which is numerically close"
    return f"bit for bit in a new process, {replay.compared} tensors{of}{besides}"


def _trust_words(trust: Trust) -> str:
    complete = "complete" if trust.complete else f"without {', '.join(trust.missing)}"
    different = ", ".join(trust.environment_differences)
    same = "same environment" if trust.same_environment else f"other {different}"
    return f"{', '.join(trust.verified)} verified; {complete}; {same}"
