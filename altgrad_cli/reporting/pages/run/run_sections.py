"""What every report of a run ends with: interventions, limits, configuration, and how to make it again."""

from __future__ import annotations

import shlex

from altgrad_cli.config.run import code_words
from altgrad_cli.reporting.blocks.document import Section, Text, Verbatim, listed, section
from altgrad_cli.reporting.evidence.quantities import configuration_text
from altgrad_cli.reporting.evidence.scope import Scope, shown_path
from altgrad_cli.runs.record import RunRecord


def warnings(scope: Scope, log: RunRecord) -> Section | None:
    """Which thresholds were crossed, and when first: how long before the end it could have been seen."""
    names = list(dict.fromkeys(alert.name for alert in log.alerts))
    columns = ("first_alert({})", "alerts_raised({})", "alerting_layers({})")
    return section("Warnings", scope.evidence.table("warning", names, columns, of=log.name))


def interventions(scope: Scope, log: RunRecord) -> Section | None:
    """Which interventions were armed, how often they acted, and whether that made a difference."""
    n = scope.evidence.of(log)
    lines = []
    if log.config.get("enable_emergency_shift"):
        lines.append(
            f"Emergency shift: armed, acted {n('interventions(emergency_shift)')} times; formats: "
            f"{n('formats')}."
        )
    if log.config.get("enable_partition_clipping"):
        lines.append(
            f"Range clipping: armed, acted {n('interventions(range_clip)')} times, of which it bound "
            f"(norm above the threshold) {n('bound_clips')} times."
        )
    if not lines:
        lines.append("No intervention was armed: this is the format by itself.")
    if any(item.name == "rescale" for item in log.interventions):
        lines.append(f"Stored weights were put on a new scale {n('interventions(rescale)')} times.")
    if log.injections:
        lines.append(
            f"**Planted faults**: {n('injections')}. What follows from them says nothing about the format."
        )
    return section("Interventions", listed(lines))


def limits(scope: Scope, log: RunRecord) -> Section | None:
    """What this one run cannot show."""
    n = scope.evidence.of(log)
    seed = "One run" if log.observed else f"One seed ({n('seed')}), one corpus"
    rate = n("config.learning_rate")
    rates = f"one peak learning rate ({rate})"
    if log.observed:
        rates = f"the loop's own learning rates ({rate} at first)"
    lines = [
        (
            f"{seed}, {n('parameters')} parameters and {n('steps')} steps: "
            "how far it carries to another size, schedule or text was not measured here."
        ),
        f"Everything is measured at {rates}; stall depends on it directly.",
        (
            "Values are rounded onto the format's grid and carried in float32; the speed and memory of "
            "real hardware are not part of it."
        ),
    ]
    if scope.evidence.judged(log).step is None:
        lines.append("Without rho it is open how much was lost.")
    return section("Limits", listed(lines))


def configuration(_: Scope, log: RunRecord) -> Section | None:
    """The resolved configuration."""
    text = Verbatim(configuration_text(log), "yaml", f"{log.name}: configuration")
    loop = Text(
        "Of an observed loop this says what is rounded, measured and kept. Its data, batch size, schedule "
        "and length are its own; `seed` is of altgrad's own random numbers."
    )
    return section("Configuration", loop if log.observed else None, text)


def reproduction(scope: Scope, log: RunRecord) -> Section | None:
    """The commands that make the run and this report again, and open its checkpoint."""
    folder = shlex.quote(shown_path(log.run_dir))
    option, override = code_words(log.subject)
    again = f"altgrad train {folder}/config.yaml{override} --out {folder}-again"
    commands = [*([] if log.observed else [again]), f"altgrad report {folder}"]
    saved = [checkpoint for checkpoint in log.checkpoints if checkpoint.reason not in ("regular", "best")]
    anomalies = [checkpoint.path for checkpoint in saved if checkpoint.path]
    if anomalies:
        name = anomalies[0].replace("\\", "/").rpartition("/")[2]
        commands.append(f"altgrad diagnose-checkpoint {folder}/checkpoints/{name}{option}")
    same = "A loop that seeds itself" if log.observed else "The same configuration"
    text = f"{origin(scope, log)} {same} gives the same numbers on the same kind of machine."
    return section("Reproduce", Text(text), Verbatim("\n".join(commands), "sh"))


def origin(scope: Scope, log: RunRecord) -> str:
    """What the log says of corpus, program and machine."""
    n = scope.evidence.of(log)
    return (
        f"Corpus {n('corpus.fingerprint')} ({n('corpus.source')}, tokenizer {n('corpus.tokenizer')}), "
        f"program {n('environment.revision')}, torch {n('environment.torch')}, device "
        f"{n('environment.device')}, threads {n('environment.threads')}, initial weights {n('init_hash')}."
    )
