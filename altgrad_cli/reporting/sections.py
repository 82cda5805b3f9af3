"""The sections of a comparison of runs. To add one, write its function and place it in ``SECTIONS``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from altgrad_cli.reporting import plots
from altgrad_cli.reporting.attribution_section import attribution_section
from altgrad_cli.reporting.columns import RunLog
from altgrad_cli.reporting.document import Block, Picture, Section, TableColumn, Text, make_table
from altgrad_cli.reporting.failure_sections import CAUSES, attribution, summary
from altgrad_cli.reporting.failure_tables import layer_rates
from altgrad_cli.reporting.quantities import series_of
from altgrad_cli.reporting.recommendations import recommendation
from altgrad_cli.reporting.reproduction import reproduction
from altgrad_cli.reporting.scope import Scope, shown_path
from altgrad_cli.reporting.seeds import seed_groups, spread_section
from altgrad_cli.reporting.sweet_spot import sweet_spot

MAX_PANELS = 6
"""Runs whose heat maps are drawn in a comparison; the rest have them in their own reports."""


def verdicts(scope: Scope) -> Section:
    """One row a run: how it ended, how good it was, and why it fell short."""
    table = make_table(
        scope.evidence,
        "run",
        [log.name for log in scope.runs],
        [
            TableColumn("format", "{}: format_studied"),
            TableColumn("regime", "{}: regime"),
            TableColumn("ended", "{}: ended"),
            TableColumn("from step", "{}: collapse.step"),
            TableColumn("loss", "{}: end(loss)"),
            TableColumn("val. loss", "{}: last(validation_loss)"),
            TableColumn("rho", "{}: recovered_fraction"),
            TableColumn("at step", "{}: recovered_fraction.step"),
            TableColumn("bit-stall", "{}: end(bit_stall_rate)"),
            TableColumn("tau", "{}: end(update_transfer)"),
            TableColumn("overflow", "{}: worst_role(overflow_rate)"),
            TableColumn("underflow", "{}: worst_role(underflow_rate)"),
            TableColumn("dropped steps", "{}: dropped_steps"),
            TableColumn("verdict", "{}: verdict_studied"),
            TableColumn("cause", "{}: cause_studied"),
        ],
    )
    key = (
        f"Loss, bit-stall and tau are means over the last {scope.evidence.cite('rule: end.window')} steps; "
        "overflow and underflow are means over the run, pooled over the layers, of the role in which they "
        "are largest. rho is the recovered fraction of the validation loss between the frozen control "
        "(zero) and the fp32 control (one), at the step named; dropped steps are those whose update was "
        "not applied because something was not finite; trained from "
        f"{scope.evidence.cite('rule: trained.from')}, failed below "
        f"{scope.evidence.cite('rule: failed.below')}."
    )
    return Section("Verdicts", (Text(_headline(scope)), table, Text(key)))


def _headline(scope: Scope) -> str:
    """One sentence a main run, the findings first."""
    lines = []
    for log in scope.main_runs:
        n, verdict = scope.evidence.of(log), scope.evidence.judgement(log).verdict
        step = scope.evidence.judgement(log).step
        rho = (
            f"rho {n(f'recovered_fraction@{step}')} at step {n(f'step@{step}')}"
            if step is not None
            else "no controls"
        )
        if verdict.grade is None:
            line = f"- `{log.name}`: {n('outcome')}; verdict open ({rho})"
        else:
            line = f"- `{log.name}`: **{n('verdict')}**, {rho}"
        if verdict.cause:
            line += f"; {n('cause')}: {CAUSES[verdict.cause]}"
        if log.record.collapse:
            line += f"; {n('collapse.class')} from step {n('collapse.step')}"
        if verdict.borderline:
            line += "; borderline"
        if log.record.started.get("injections"):
            line += f"; faults were planted: {n('injections')}"
        lines.append(line + ".")
    lines += _twins(scope)
    control = next((log for log in scope.failed_runs if _is_control_format(scope, log)), None)
    if control is not None:
        lines.append(
            f"- **The control format itself fails here**: `{control.name}`, verdict "
            f"{scope.evidence.of(control)('verdict')}. What fails beside it fails by the regime as well as "
            "by its grid."
        )
    return "\n".join(lines) or "No format was under study: these are controls."


def _twins(scope: Scope) -> list[str]:
    """Main runs of two formats whose losses are the same at every step."""
    lines = []
    for index, first in enumerate(scope.main_runs):
        for second in scope.main_runs[index + 1 :]:
            same = np.array_equal(series_of(first, "loss")[1], series_of(second, "loss")[1], equal_nan=True)
            if same and first.record.format != second.record.format:
                lines.append(
                    f"- `{first.name}` and `{second.name}` have the same loss at every step: under these "
                    "scales the two formats are one grid."
                )
    return lines


def _is_control_format(scope: Scope, log: RunLog) -> bool:
    """Whether ``log`` is E5M2 under the same settings as another format of this report."""

    def settings(run: RunLog) -> dict[str, object]:
        return {key: value for key, value in run.record.config.items() if key != "fp8_format"}

    return log.record.format == "E5M2" and any(
        settings(other) == settings(log) and other is not log for other in scope.main_runs
    )


def losses(scope: Scope) -> Section | None:
    """Loss of all runs."""
    found = [
        (
            plots.loss_figure(scope.runs),
            (
                "Smoothed over about ten steps. A triangle marks the step a collapse is dated to, a cross a "
                "loss that was not finite; dashed: a curve that shares its colour or lies on another."
            ),
        ),
        (plots.validation_figure(scope.runs), ""),
    ]
    blocks: list[Block] = [Picture(figure, caption) for figure, caption in found if figure is not None]
    return Section("Loss", tuple(blocks)) if blocks else None


def heat_maps(scope: Scope) -> Section | None:
    """Where trouble sits: stall, overflow, underflow and shadow cosine by layer and step."""
    runs = (scope.main_runs or scope.subjects)[:MAX_PANELS]
    makers = (plots.stall_heat, plots.overflow_heat, plots.underflow_heat, plots.cosine_heat)
    blocks: list[Block] = [Picture(figure, "") for make in makers if (figure := make(runs)) is not None]
    if not blocks:
        return None
    left = len(scope.subjects) - len(runs)
    if left > 0:
        blocks.append(
            Text("The runs not drawn here have their pictures in their own reports (`altgrad report RUN`).")
        )
    return Section("Where the trouble sits", tuple(blocks))


def codes(scope: Scope) -> Section | None:
    """Which codes are in use."""
    runs = (scope.main_runs or scope.subjects)[:MAX_PANELS]
    figures = [
        figure
        for role in ("stored_weights", "gradients")
        if (figure := plots.code_map(runs, role)) is not None
    ]
    caption = (
        "A row is one code, the largest value on top; a white code is not in use. The last row counts "
        "what is not a number."
    )
    return (
        Section("Use of the codes", tuple(Picture(figure, caption) for figure in figures))
        if figures
        else None
    )


def predicted_stall(scope: Scope) -> Section | None:
    """The bit-stall expected before training against the one measured."""
    runs = [log for log in scope.subjects if log.record.started.get("predicted_stall")]
    if not runs:
        return None
    table = make_table(
        scope.evidence,
        "run",
        [log.name for log in runs],
        [
            TableColumn("first step: predicted", "{}: predicted_stall.first_step"),
            TableColumn("measured", "{}: at(bit_stall_rate)@1"),
            TableColumn("long run: predicted", "{}: predicted_stall.long_run"),
            TableColumn("measured at the end", "{}: end(bit_stall_rate)"),
        ],
    )
    figure = plots.prediction_figure(runs)
    text = (
        "Bit-stall as a share of the updates: expected of rounding to nearest from the initial weights "
        "alone, and measured."
    )
    pictures = (
        (
            Picture(
                figure,
                "A point is a run at its end, or a layer at a diagnostic step where the layers were "
                "predicted one by one.",
            ),
        )
        if figure
        else ()
    )
    return Section("Predicted and measured stall", (Text(text), table, *pictures))


def failures(scope: Scope) -> list[Section]:
    """The failure report of each failing format in short; the whole one is that of the run."""
    sections = []
    for log in _first_seed(scope.failed_runs):
        blocks: list[Block] = []
        for make in (summary, attribution, layer_rates, recommendation):
            section = make(scope, log)
            if section is not None:
                blocks += [Text(f"**{section.title}**"), *section.blocks]
        note = f"The whole report of this run: `altgrad report {shown_path(log.record.run_dir)}`."
        sections.append(Section(f"Failure report: {log.name}", (*blocks, Text(note))))
    return sections


def _first_seed(runs: list[RunLog]) -> list[RunLog]:
    """One run of each arm: where an arm was run with several seeds, the first."""
    return [group[0] for _, group in seed_groups(runs)]


def retries(scope: Scope) -> Section | None:
    """The runs that followed from a result, and why."""
    runs = [log for log in scope.subjects if scope.note(log).kind in ("retry", "intervened")]
    if not runs:
        return None
    lines = []
    for log in runs:
        why = scope.note(log).reason and f": {scope.evidence.of(log)('plan.reason')}"
        lines.append(f"- `{log.name}` follows `{scope.note(log).retry_of}`{why}.")
    table = make_table(
        scope.evidence,
        "run",
        [log.name for log in runs],
        [
            TableColumn("validation", "{}: last(validation_loss)"),
            TableColumn("rho", "{}: recovered_fraction"),
            TableColumn("at step", "{}: recovered_fraction.step"),
            TableColumn("formats", "{}: formats"),
            TableColumn("shifts", "{}: interventions(emergency_shift)"),
            TableColumn("clips", "{}: interventions(range_clip)"),
            TableColumn("clips that bound", "{}: bound_clips"),
            TableColumn("verdict", "{}: verdict"),
            TableColumn("layers in BF16", "{}: layers_in_bf16"),
        ],
    )
    return Section("Retries and interventions", (Text("\n".join(lines)), table))


def limits(scope: Scope) -> Section:
    """What these runs do not show."""
    n = scope.evidence.of(scope.runs[0])
    lines = [
        (
            f"- A small model ({n('parameters')} parameters) and {n('steps')} steps on one corpus; the "
            "recovered fraction depends on the step and on the schedule."
        ),
        (
            "- Formats are simulated exactly, but on a float32 carrier: nothing here says how fast or how "
            "small they are on hardware."
        ),
    ]
    if len({log.record.seed for log in scope.runs}) > 1:
        lines.insert(0, "- Several seeds were run; a difference smaller than their spread is noise.")
    else:
        width = scope.evidence.cite("rule: borderline.width")
        lines.insert(
            0, f"- One seed ({n('seed')}): another may move rho by about {width}, and more now and then."
        )
    if not all(scope.evidence.judgement(log).step for log in scope.main_runs):
        lines.append("- Some runs have no fp32 and frozen control of the same seed: they get no verdict.")
    unfinished = [log for log in scope.runs if log.record.outcome == "unfinished"]
    if unfinished:
        lines.append(f"- Not finished: {', '.join(f'`{log.name}`' for log in unfinished)}.")
    return Section("What these runs do not show", (Text("\n".join(lines)),))


SweepSection = Callable[[Scope], "Section | list[Section] | None"]
SECTIONS: tuple[SweepSection, ...] = (
    verdicts,
    losses,
    spread_section,
    attribution_section,
    retries,
    heat_maps,
    codes,
    predicted_stall,
    sweet_spot,
    failures,
    limits,
    reproduction,
)
"""The sections of a comparison, in order."""


def comparison_sections(scope: Scope) -> tuple[Section, ...]:
    """All sections that have something to say."""
    sections: list[Section] = []
    for make in SECTIONS:
        made = make(scope)
        sections += made if isinstance(made, list) else [made] if made is not None else []
    return tuple(sections)
