"""The sections of a comparison of runs. To add one, write its function and place it in ``SECTIONS``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from altgrad_cli.errors import UsageError
from altgrad_cli.notation import layer_type
from altgrad_cli.reporting.blocks.document import (
    Block,
    Section,
    TableColumn,
    Text,
    Verbatim,
    listed,
    picture,
    section,
)
from altgrad_cli.reporting.evidence.labels import run_labels
from altgrad_cli.reporting.evidence.scope import Scope, shown_path
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.reporting.pages.comparison.attribution_section import attribution_section
from altgrad_cli.reporting.pages.comparison.headline import headline
from altgrad_cli.reporting.pages.comparison.rules_section import rules_section
from altgrad_cli.reporting.pages.comparison.seeds import recovery_picture, runs_by_arm, spread_section
from altgrad_cli.reporting.pages.comparison.tuning_section import gaps_section, rates_section
from altgrad_cli.reporting.pages.run.coverage_section import coverage_of_runs
from altgrad_cli.reporting.pages.run.failure_sections import attribution, summary
from altgrad_cli.reporting.pages.run.failure_tables import layer_rates
from altgrad_cli.reporting.pages.run.recommendations import recommendation
from altgrad_cli.reporting.pages.run.run_sections import origin
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.arms import text_words
from altgrad_cli.sweeps.format_verdicts.families import text_of
from altgrad_cli.sweeps.results import is_sweep, read_spec

MAX_PANELS = 6
"""Runs whose heat maps are drawn in a comparison; the rest have them in their own reports."""


_VERDICTS = (
    *("grade", "recovered_fraction", "recovered_fraction.step", "cause", "format_studied", "regime", "ended"),
    *("onset", "collapse.detected", "last(validation_loss)", "last(loss)"),
    *("last(micro_f1)", "last(macro_f1)", "end(bit_stall_rate)"),
    *(
        "end(update_transfer)",
        "last(effective_rank)",
        "worst_role(overflow_rate)",
        "worst_role(underflow_rate)",
        "dropped_steps",
    ),
)


def verdicts(scope: Scope) -> Section | None:
    """One row a run: how it ended, how good it was, and why it fell short."""
    chosen = {(str(log.config.get("optimizer")), log.config.get("learning_rate")) for log in scope.runs}
    columns = (*_VERDICTS[:6], "config.optimizer.rule", "config.learning_rate", *_VERDICTS[6:])
    table = scope.evidence.table(
        "run", [log.name for log in scope.runs], columns if len(chosen) > 1 else _VERDICTS
    )
    labels = any(log.subject == "eurovoc" for log in scope.runs)
    key = (
        "Losses are those of the last step and of the last evaluation; bit-stall and tau are means over the "
        f"last {scope.evidence.cite('rule: end.window')} steps; "
        "the effective rank of the weights is the last one measured, the mean over the hidden layers; "
        "overflow and underflow are means over the run, pooled over the layers, of the role in which they "
        "are largest. rho is the recovered fraction of the validation loss between the frozen control "
        "(zero) and the fp32 control (one), at the step named; dropped steps are those whose update was "
        "not applied because something was not finite; trained from "
        f"{scope.evidence.cite('rule: trained.from')}, failed below "
        f"{scope.evidence.cite('rule: failed.below')}; no verdict where the two controls are less than "
        f"{scope.evidence.cite('rule: ends.apart.labels' if labels else 'rule: ends.apart')} nats apart."
    )
    return section("Verdicts", headline(scope), table, Text(key))


def losses(scope: Scope) -> Section | None:
    """Loss of all runs, a picture a text: losses of two texts are on no common scale."""
    minor = {log.name for log in scope.runs if scope.kind(log) not in ("control", "format")}
    opens_with_rho = recovery_picture(scope) is not None
    caption = (
        "Smoothed over about ten steps. A triangle: a collapse was detected; a cross: a "
        "loss that was not finite; dashed: a curve that shares its colour or lies on another."
    )
    blocks: list[Block | None] = []
    for text, runs in _by_text(scope).items():
        labels = run_labels(arm for log in runs if (arm := scope.arm(log)) is not None)
        blocks.append(picture(plots.loss_figure(runs, minor, labels, text), caption))
        if opens_with_rho:
            blocks.append(picture(plots.validation_figure(runs, minor, labels, text)))
    return section("Loss", *blocks)


def _by_text(scope: Scope) -> dict[str, list[RunRecord]]:
    """Word of a text -> its runs; all under an empty word where there is one, or a run is in no plan."""
    of = {log.name: text_of(arm) for log in scope.runs if (arm := scope.arm(log)) is not None}
    words = text_words(list(dict.fromkeys(of.values())))
    if len(words) < 2 or len(of) < len(scope.runs):
        return {"": scope.runs}
    found: dict[str, list[RunRecord]] = {}
    for log in scope.runs:
        found.setdefault(words[of[log.name]], []).append(log)
    return found


def _drawn(scope: Scope) -> list[RunRecord]:
    """The runs whose layers and codes are drawn."""
    return (scope.main_runs or scope.subjects)[:MAX_PANELS]


def heat_maps(scope: Scope) -> Section | None:
    """Where trouble sits: stall, overflow, underflow and shadow cosine by layer and step."""
    keys = ("stall", "overflow", "underflow", "cosine")
    pictures = [drawn for key in keys if (drawn := plots.heat_block(key, _drawn(scope)))]
    note = "The runs not drawn here have their pictures in their own reports (`altgrad report RUN`)."
    are_left = pictures and len(scope.subjects) > len(_drawn(scope))
    return section("Layers", *pictures, Text(note) if are_left else None)


def codes(scope: Scope) -> Section | None:
    """Which codes are in use."""
    caption = (
        "A row is one code, the largest value on top; a white code is not in use. The last row counts "
        "what is not a number."
    )
    maps = (plots.code_map(_drawn(scope), role) for role in ("stored_weights", "gradients"))
    return section("Codes", *(picture(figure, caption) for figure in maps))


def predicted_stall(scope: Scope) -> Section | None:
    """The bit-stall expected before training against the one measured."""
    runs = [log for log in scope.subjects if log.predicted_stall]
    if not runs:
        return None
    text = (
        "Bit-stall as a share of the updates: expected of rounding to nearest from the initial weights "
        "alone, and measured."
    )
    columns = (
        TableColumn("first step: predicted", "{}: predicted_stall.first_step"),
        TableColumn("measured", "{}: at(bit_stall_rate)@1"),
        TableColumn("long run: predicted", "{}: predicted_stall.long_run"),
        TableColumn("measured at the end", "{}: end(bit_stall_rate)"),
    )
    caption = (
        "A point is a run at its end, or a layer at a diagnostic step where the layers were predicted one by "
        "one."
    )
    return section(
        "Predicted stall",
        Text(text),
        scope.evidence.table("run", [log.name for log in runs], columns),
        picture(plots.prediction_figure(runs), caption),
    )


_BY_LAYER_TYPE = {
    "update_transfer": (
        "Update transfer tau: how much of the optimizer's step reaches the stored weights (one is all of it)."
    ),
    "gradient_sqnr": "SQNR of the weight gradient against its float32 shadow, in dB.",
}


def sweet_spot(scope: Scope) -> Section | None:
    """For each kind of layer, the measures of every format side by side and the format that leads."""
    runs = [members[0] for members in runs_by_arm(scope, scope.main_runs)]
    if len(runs) < 2:
        return None
    types = dict.fromkeys(layer_type(name) for name in runs[0].layers)
    names = ",".join(log.name for log in runs)
    blocks: list[Block | None] = []
    for metric, words in _BY_LAYER_TYPE.items():
        mean = f"type_mean({metric})"
        kinds = [
            kind
            for kind in types
            if any(scope.evidence.value(f"{log.name}: {mean}[{kind}]") is not None for log in runs)
        ]
        columns = [TableColumn(log.name, f"{log.name}: {mean}[{{}}]") for log in runs]
        columns.append(TableColumn("leads", f"{names}: leader {mean}[{{}}]"))
        if kinds:
            blocks += [Text(words), scope.evidence.table("layer type", kinds, columns)]
    note = (
        "Means over the whole run and all blocks. A leader by one measure is not a verdict: what "
        "counts is the loss, and that was measured for uniform formats and for the mixtures listed "
        "under the retries only."
    )
    return section("Layer types", *blocks, Text(note)) if blocks else None


def failures(scope: Scope) -> Section | None:
    """The failure report of each failing format in short; the whole one is that of the run."""
    sections: list[Block] = []
    for log in (group[0] for group in runs_by_arm(scope, scope.failed_runs)):
        blocks: list[Block] = []
        for make in (summary, attribution, layer_rates, recommendation):
            part = make(scope, log)
            if part is not None:
                blocks += [Text(f"**{part.title}**"), *part.blocks]
        note = f"The whole report of this run: `altgrad report {shown_path(log.run_dir)}`."
        sections.append(Section(f"Failure report: {log.name}", (*blocks, Text(note))))
    return section("Failures", *sections)


_AFTERWARDS = (
    *("last(validation_loss)", "recovered_fraction", "recovered_fraction.step", "formats"),
    *("interventions(emergency_shift)", "interventions(range_clip)", "bound_clips", "grade"),
    "layers_in_bf16",
)


def retries(scope: Scope) -> Section | None:
    """The runs that followed from a result, and why; and those that an intervention was armed in."""
    followed = [log for log in scope.subjects if scope.kind(log) in ("retry", "intervened")]
    armed = [log for log in scope.subjects if log not in followed and _is_armed(log)]
    lines = []
    for log in followed:
        arm, n = scope.evidence.arms[log.name], scope.evidence.of(log)
        why = arm.reason and f": {n('plan.reason')}"
        warning = f" Warning: {n('warning')}." if scope.evidence.judged(log).warning is not None else ""
        lines.append(f"`{log.name}` follows `{arm.retry_of}`{why}.{warning}")
    table = scope.evidence.table("run", [log.name for log in (*followed, *armed)], _AFTERWARDS)
    return section("Retries", listed(lines), table)


def _is_armed(log: RunRecord) -> bool:
    config = log.config
    return bool(config.get("enable_emergency_shift") or config.get("enable_partition_clipping"))


def limits(scope: Scope) -> Section | None:
    """What these runs do not show."""
    n = scope.evidence.of(scope.runs[0])
    several = len({log.seed for log in scope.runs}) > 1
    width = scope.evidence.cite("rule: seed.spread")
    unfinished = [f"`{log.name}`" for log in scope.runs if log.outcome == "unfinished"]
    lines = [
        "Several seeds were run; a difference smaller than their spread is noise."
        if several
        else f"One seed ({n('seed')}): another may move rho by about {width}, and more now and then.",
        (
            f"A small model ({n('parameters')} parameters) and {n('steps')} steps on one corpus; the "
            "recovered fraction depends on the step and on the schedule."
        ),
        (
            "Formats are simulated exactly, but on a float32 carrier: nothing here says how fast or how "
            "small they are on hardware."
        ),
        *([f"Not finished: {', '.join(unfinished)}."] if unfinished else []),
    ]
    return section("Limits", listed(lines))


def reproduction(scope: Scope) -> Section | None:
    """The sweep's command line where there was one, the report's, and what the logs say of the machine."""
    commands = []
    for path in filter(is_sweep, map(Path, scope.logs)):
        with suppress(UsageError):  # what a sweep of another version was asked is not known
            commands.append(read_spec(path).command_line())
    commands.append(f"altgrad report {' '.join(map(shlex.quote, scope.logs))}")
    return section("Reproduce", Text(origin(scope, scope.runs[0])), Verbatim("\n".join(commands), "sh"))


SweepSection = Callable[[Scope], "Section | None"]
SECTIONS: tuple[SweepSection, ...] = (
    verdicts,
    losses,
    spread_section,
    rules_section,
    gaps_section,
    rates_section,
    attribution_section,
    retries,
    heat_maps,
    codes,
    predicted_stall,
    coverage_of_runs,
    sweet_spot,
    failures,
    limits,
    reproduction,
)
"""The sections of a comparison, in order."""


def comparison_sections(scope: Scope) -> tuple[Section, ...]:
    """All sections that have something to say."""
    return tuple(made for make in SECTIONS if (made := make(scope)) is not None)
