"""From evidence to sentences: what a reader should know first, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from altgrad_cli.config.run import code_words
from altgrad_cli.forensics.document import Diagnosis, Finding, NextCommand
from altgrad_cli.forensics.failure import DIVERGENCE, NONE, NONFINITE, STALL
from altgrad_cli.forensics.mechanism import NOT_THE_FORMAT
from altgrad_cli.forensics.opened import OpenedCheckpoint
from altgrad_cli.forensics.step_again.what_if import Counterfactual

_PREFERRED = ("overflow", "scale", "update", "role", "format")


def findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    """What the diagnosis comes to, most important first."""
    yield from _failure(diagnosis)
    yield from _trust(diagnosis)
    for suspect in diagnosis.amax_suspects:
        place = f"{suspect.role} of {suspect.module}"
        yield Finding("warning", f"the amax history of {place} is {suspect.factor:.3g} times too small")
    if diagnosis.failure.kind == NONFINITE:
        yield from _rescue(diagnosis)
    lead = diagnosis.lead_time
    if diagnosis.failure.kind != NONE and lead.first is not None:
        before = f"{lead.first.steps_before} steps before the step at hand"
        yield Finding("note", f"{lead.first.metric} left its {lead.first.rule} {before}")
    elif diagnosis.failure.kind == NONFINITE and lead.note:
        yield Finding("note", lead.note)
    yield Finding("note", "one step of one seed: what saves this step need not save the run")


def _failure(diagnosis: Diagnosis) -> Iterator[Finding]:
    failure, first = diagnosis.failure, diagnosis.first_nonfinite
    if failure.kind == NONE:
        yield Finding("note", "healthy: loss, gradient, quantiser inputs and update of this step are finite")
        return
    if failure.kind == NONFINITE:
        yield Finding("failure", f"step {failure.step}: {failure.trigger}")
        if first is not None and first.value_before_rounding is not None:
            grid = f"{first.format}, scale {first.scale:.4g}"
            yield Finding(
                "failure", f"{first.value_before_rounding:.6g} was rounded to {first.value} ({grid})"
            )
        elif first is not None:
            yield Finding("failure", first.explanation)
    elif failure.kind == STALL:
        count = failure.nonfinite_count
        yield Finding("failure", f"stalled: {failure.trigger}; non-finite values: {count}")
    else:
        yield Finding("failure", failure.trigger)
    yield Finding("failure", f"mechanism: {diagnosis.mechanism.stage}")


def _trust(diagnosis: Diagnosis) -> Iterator[Finding]:
    trust, replay = diagnosis.trust, diagnosis.replay
    if trust.injected.planned:
        yield Finding("warning", f"this run has planted faults: {', '.join(trust.injected.planned)}")
    for name, reason in trust.missing.items():
        yield Finding("warning", f"missing: {name} ({reason})")
    if trust.codes_agree is False:
        yield Finding("warning", "stored codes and float32 carrier disagree: a weight changed in memory")
    if "subject_source" in trust.environment_differences:
        yield Finding("warning", "the subject's source is not the one of the run: its code was changed since")
    if not trust.same_environment:
        names = ", ".join(trust.environment_differences)
        yield Finding("note", f"another environment than recorded ({names}): a replay may differ")
    if replay.first_difference is not None:
        yield Finding("warning", f"not reproduced: {replay.first_difference.cause}")
    elif replay.ran:
        what = "the eager form of this compiled step was " if replay.compiled else ""
        tensors = f"({replay.compared} tensors)"
        yield Finding("note", f"{what}reproduced bit for bit in a new process {tensors}")
    elif replay.reason:
        yield Finding("warning", f"no replay: {replay.reason}")
    if diagnosis.batch is not None and diagnosis.batch.equals_corpus is False:
        yield Finding("warning", "the batch is not what the corpus holds at its offsets")
    if not diagnosis.optimizer.sound:
        yield Finding("failure", "the optimizer state is poisoned: go back to an earlier checkpoint")


def _rescue(diagnosis: Diagnosis) -> Iterator[Finding]:
    saved = [entry.change for entry in diagnosis.counterfactuals if entry.survives and entry.kind != "format"]
    if saved:
        yield Finding("note", f"it survives with: {'; '.join(saved[:6])}")
    if diagnosis.minimal_bf16_layers:
        layers = ", ".join(diagnosis.minimal_bf16_layers)
        words = f"it survives with these layers in BF16, and with none of them left out: {layers}"
        yield Finding("note", words)


def next_command(opened: OpenedCheckpoint, diagnosis: Diagnosis, what_if: bool) -> NextCommand:
    """One command and why."""
    kind, run = diagnosis.failure.kind, opened.run_folder
    file = shlex.quote(str(opened.path))
    option, override = code_words(opened.config.subject)
    if kind == NONFINITE and not what_if and diagnosis.mechanism.stage != NOT_THE_FORMAT:
        command = f"altgrad diagnose-checkpoint {file}{option} --replay --what-if"
        return NextCommand(command, "see what would have saved this step")
    if opened.saved.observed is not None:
        return _in_the_loop(opened, diagnosis, f"altgrad diagnose-checkpoint {file}{option} --what-if")
    if run is None:
        return NextCommand(
            f"altgrad diagnose-checkpoint {file}{option} --what-if",
            "the run's folder is not beside this file, so it cannot be resumed from here",
        )
    resume = f"altgrad train --resume {shlex.quote(str(run))}{override}"
    if kind == NONFINITE:
        overrides = rescuing_overrides(diagnosis.counterfactuals, diagnosis.minimal_bf16_layers)
        why = "from the last good state, with the least change that saved this step"
        if not overrides:
            why = "from the last good checkpoint: no setting saved this step"
        return NextCommand(" ".join([resume, *map(shlex.quote, overrides)]), why)
    if kind == STALL:
        return NextCommand(
            f"{resume} precision.rounding=stochastic",
            "stochastic rounding of the update lets small steps through in expectation",
        )
    if kind == DIVERGENCE:
        rate = opened.config.learning_rate / 10
        return NextCommand(
            f"{resume} learning_rate={rate:g}", "a smaller step, to see whether the loss falls"
        )
    return NextCommand(resume, "nothing is wrong with this state")


def _in_the_loop(opened: OpenedCheckpoint, diagnosis: Diagnosis, further: str) -> NextCommand:
    """The same for an observed loop: only who runs it can let it go on."""
    if diagnosis.failure.kind == NONFINITE:
        found = rescuing_overrides(diagnosis.counterfactuals, diagnosis.minimal_bf16_layers)
        if found:
            command = f"altgrad_cli.observe(..., settings={found})"
            return NextCommand(command, "in the loop itself, with the least change that saved this step")
        return NextCommand(further, "no setting saved this step: look at what the loop does before it")
    if diagnosis.failure.kind == STALL:
        command = "altgrad_cli.observe(..., settings=['precision.rounding=stochastic'])"
        return NextCommand(
            command, "stochastic rounding of the update lets small steps through in expectation"
        )
    return NextCommand(further, "what other formats and settings would have made of this step")


def rescuing_overrides(
    counterfactuals: Sequence[Counterfactual], minimal_layers: Sequence[str] | None
) -> list[str]:
    """The overrides of the mildest change that survives."""
    surviving = [entry for entry in counterfactuals if entry.survives and entry.overrides]
    for number, kind in enumerate(_PREFERRED):
        if number == 2 and minimal_layers:
            rules = ", ".join(f'{{pattern: "{name}", format: BF16}}' for name in minimal_layers)
            return [f"precision.rules=[{rules}]"]
        for entry in surviving:
            if entry.kind == kind:
                return list(entry.overrides)
    return []
