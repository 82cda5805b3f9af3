"""The failure report of one run: what happened, by what measurement, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable

from altgrad_cli.config.precision import REGIME_ROLES
from altgrad_cli.reporting.blocks.document import Block, Section, Text, listed, section
from altgrad_cli.reporting.evidence.quantities import rounded_roles
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.evidence.windows import telling_window
from altgrad_cli.reporting.pages.comparison.attribution_section import stage_sentence
from altgrad_cli.reporting.pages.comparison.layers_section import layers_blocks
from altgrad_cli.reporting.pages.run.coverage_section import run_coverage
from altgrad_cli.reporting.pages.run.failure_tables import (
    code_use,
    diagnostic_trend,
    gradient_sparsity,
    layer_rates,
    pictures,
    predicted_stall,
    rank,
    zero_update_regions,
)
from altgrad_cli.reporting.pages.run.recommendations import recommendation
from altgrad_cli.reporting.pages.run.run_sections import (
    configuration,
    interventions,
    limits,
    reproduction,
    warnings,
)
from altgrad_cli.runs.record import RunRecord

CAUSES = {
    "nonfinite": "a value stopped being finite",
    "diverged": "the loss diverged",
    "underflowed": "values underflow to zero",
    "saturated": "values overflow the format's range",
    "stalled": "the update does not reach the stored weights",
    "slowed": "the update reaches the stored weights only in part",
    "unexplained": "none of the measured causes explains it",
}
"""What a cause means, in words."""


def summary(scope: Scope, log: RunRecord) -> Section | None:
    """What was run, how it ended, and how far it is from its controls."""
    n = scope.evidence.of(log)
    judged_run = scope.evidence.judged(log)
    step = judged_run.step
    lines = [
        (
            f"**Format**: {n('grid')}, regime {n('regime')}, rounding {n('config.precision.rounding')}, "
            f"scaling {n('scaling')}; in force: {n('formats')}."
        ),
        f"**Length**: {_length(scope, log)}; {n('dropped_steps')} updates dropped for a non-finite value.",
    ]
    # The reason of a stall collapse is the collapse, which has a line of its own.
    is_stall = (log.collapse or {}).get("class") == "stall_collapse"
    lines.append(f"**Outcome**: {n('outcome')}" + ("." if is_stall else f": {n('reason')}."))
    if log.has_rules:
        lines.append(f"**Exceptions**: {n('rules')}.")
    if log.injections:
        lines.append(
            f"**Faults were planted** in this run: {n('injections')}; it says nothing about the format."
        )
    if judged_run.collapse:
        lines.append(f"**Collapse**: {collapse_sentence(scope, log)}.")
    elif judged_run.warning:
        lines.append(f"**Warning**: {n('warning')}.")
    lines.append(_losses(scope, log))
    if step is not None:
        lines.append(
            f"**Recovered fraction**: rho = {n(f'recovered_fraction@{step}')} at step {n(f'step@{step}')} "
            "(zero is the frozen control, one the fp32 control)."
        )
    lines.append(_verdict(scope, log))
    return section("Summary", listed(lines))


def _length(scope: Scope, log: RunRecord) -> str:
    n = scope.evidence.of(log)
    if log.observed:
        return f"{n('steps')} steps of an observed loop, first learning rate {n('config.learning_rate')}"
    return (
        f"{n('steps')} of {n('config.max_steps')} steps, seed {n('seed')}, "
        f"peak learning rate {n('config.learning_rate')}"
    )


def collapse_sentence(scope: Scope, log: RunRecord) -> str:
    """``stall_collapse from the start, detected at step 150``; a non-finite one is detected as it begins."""
    n = scope.evidence.of(log)
    words = f"{n('collapse.class')} {n('onset')}"
    has_detection = (log.collapse or {}).get("detected") is not None
    return f"{words}, detected at step {n('collapse.detected')}" if has_detection else words


def _losses(scope: Scope, log: RunRecord) -> str:
    n = scope.evidence.of(log)
    text = f"**Loss**: training {n(f'at(loss)@{log.last_step}')} at step {n(f'step@{log.last_step}')}"
    if len(log.validation):
        last = int(log.validation.steps[-1])
        text += (
            f"; validation {n(f'at(validation_loss)@{last}')} at step {n(f'step@{last}')}, "
            f"best {n('best(validation_loss)')} at step {n('best_step(validation_loss)')}"
        )
        for regime in ("fp32", "bf16", "frozen"):
            control = scope.evidence.control(log, regime)
            if control is not None and control is not log and control.validation.at(last) is not None:
                text += (
                    f"; control `{control.name}` {scope.evidence.of(control)(f'at(validation_loss)@{last}')}"
                )
    collapse = log.collapse or {}
    onset = collapse.get("onset", collapse.get("step"))
    if onset and onset > 1:
        text += f"; training loss just before the collapse {n(f'at(loss)@{onset - 1}')}"
    return text + "."


def _verdict(scope: Scope, log: RunRecord) -> str:
    n = scope.evidence.of(log)
    verdict = scope.evidence.judged(log).verdict
    if verdict.grade is None:
        text = f"**Verdict**: {n('verdict')}"
        return text + (f"; suspected cause: {n('cause')}: {CAUSES[verdict.cause]}." if verdict.cause else ".")
    text = f"**Verdict**: **{n('verdict')}**"
    if verdict.borderline:
        text += f" (borderline: within {scope.evidence.cite('rule: borderline.width')} of an edge)"
    if verdict.cause:
        text += f"; cause: {n('cause')}: {CAUSES[verdict.cause]}"
    return f"{text}. Controls: {n('controls')}."


def attribution(scope: Scope, log: RunRecord) -> Section | None:
    """The evidence for the cause, and which stage fails by the runs that switch the roles on and off."""
    n = scope.evidence.of(log)
    window = telling_window(log)
    over = window.range
    lines = [
        f"Measured over steps {n(f'window{over}')} ({window.what}), pooled over the layers:",
        "",
        (
            f"- update transfer tau {n(f'mean(update_transfer){over}')} (zero is frozen, one is faithful), "
            f"bit-stall {n(f'mean(bit_stall_rate){over}')} of the updates;"
        ),
        (
            f"- gradient against its float32 shadow: cosine {n(f'mean(gradient_cosine){over}')}, SQNR "
            f"{n(f'mean(gradient_sqnr){over}')} dB (a cosine alone convicts no format);"
        ),
        f"- updates dropped for a non-finite value: {n('dropped_steps')}"
        + (f", the first at step {n('first_dropped_step')}." if log.dropped_steps else "."),
    ]
    if log.observed and not len(log.series("gradient_cosine")) and log.regime != "fp32":
        lines.append("- the float32 shadow is measured where `observe` is given the step as a closure.")
    roles = scope.evidence.table(
        "role",
        REGIME_ROLES["uniform"],
        [
            *(f"mean({rate}/{{}}){over}" for rate in ("overflow_rate", "underflow_rate", "zero_share")),
            *(f"mean({name}/{{}}){over}" for name in ("subnormal_fraction", "mean_rounding_error")),
            *(f"max(amax/{{}}){over}", "sum(nonfinite_inputs/{})"),
        ],
        of=log.name,
    )
    head = (
        "With stored weights on the grid, the row `weights` is that of the head alone: the other layers' "
        "weights are `stored_weights`."
    )
    on_grid = Text(head) if "M" in rounded_roles(log) else None
    return section("Attribution", Text("\n".join(lines)), roles, on_grid, *_stage(scope, log))


def _stage(scope: Scope, log: RunRecord) -> list[Block]:
    layers = layers_blocks(scope, log) if log.has_rules else []
    found = scope.evidence.attribution(log)
    if found is not None:
        return [Text(stage_sentence(scope, found)), *layers]
    return layers or [
        Text(
            "Which stage fails (forward precision, gradient fidelity or the optimizer's update) was not "
            "tested by runs that switch the roles on one by one; `altgrad sweep --attribute` makes them."
        )
    ]


RunSection = Callable[[Scope, RunRecord], Section | None]
FAILURE_SECTIONS: tuple[RunSection, ...] = (
    summary,
    attribution,
    pictures,
    gradient_sparsity,
    zero_update_regions,
    layer_rates,
    code_use,
    rank,
    diagnostic_trend,
    predicted_stall,
    run_coverage,
    warnings,
    interventions,
    recommendation,
    limits,
    configuration,
    reproduction,
)
"""The sections of a failure report, in order. To add one, write its function and place it here."""


def failure_sections(scope: Scope, log: RunRecord) -> tuple[Section, ...]:
    """All sections that have something to say about ``log``."""
    return tuple(section for make in FAILURE_SECTIONS if (section := make(scope, log)) is not None)
