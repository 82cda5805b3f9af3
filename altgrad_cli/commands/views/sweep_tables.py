"""The tables that `sweep` ends in, and what their readers have to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from altgrad_cli.metrics.noise import Interval
from altgrad_cli.metrics.thresholds import END_WINDOW, SEED_SPREAD
from altgrad_cli.metrics.verdict import Verdict, loss_scale
from altgrad_cli.notation import MISSING, decimals
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.comparison import LossGap, Paired, compare_seeds, loss_gaps
from altgrad_cli.sweeps.format_verdicts.ranking import rankings
from altgrad_cli.sweeps.format_verdicts.words import format_verdicts
from altgrad_cli.sweeps.results import ArmResult, SweepRecord
from altgrad_cli.sweeps.tuning import rate_word
from altgrad_cli.sweeps.verdicts import JudgedRun, arms_without_verdict
from altgrad_cli.training.watch.collapse import collapse_words

_HOW_TO_READ = (
    "rho@step: share of the fp32 run's gain over the frozen control. Losses: {unit}, of the last "
    "step and of the last evaluation with the rounded model. stall, tau: means over the last "
    f"{END_WINDOW} steps. overflow, underflow: means over the run, worst role."
)
_HOW_GAPS_ARE_READ = (
    "Loss gap: validation loss less that of the fp32 run of the same seed, with its 95 % interval over the "
    "seeds, where there are several. The best fp32 is that of the rule with the lowest loss among the rates "
    "tried, or of the first rule. bits: kept of a weight from step to step, with residual and moments."
)
_HOW_FORMATS_ARE_READ = (
    "A line a format: rho and the loss gap to fp32 (nats), means with half of their 95 % interval over the "
    "texts, or over the seeds of the only one. fp32 steps: in how many fp32 had come down to the same loss. "
    "Without enough seeds, texts and tuned rates the words are in the past tense."
)
_GRADE_STYLES = {"trained": "green", "degraded": "yellow", "failed": "red", None: ""}


def _ended(cell: Callable[[JudgedRun], str]) -> Callable[[ArmResult], str]:
    """``cell`` of an arm that has ended; a dash for any other."""
    return lambda row: cell(row.finding) if row.finding else MISSING


_COLUMNS: tuple[tuple[str, Callable[[ArmResult], str], bool], ...] = (
    ("arm", lambda row: row.arm.name, True),
    ("format", lambda row: row.arm.format, False),
    ("rate", lambda row: rate_word(row.arm.config.learning_rate), True),
    ("outcome", lambda row: row.finding.outcome if row.finding else "unfinished", False),
    ("collapse", _ended(lambda found: _collapse(found) or MISSING), True),
    ("loss", _ended(lambda found: decimals(found.record.final_loss, 3)), False),
    ("val loss", _ended(lambda found: decimals(found.record.validation.last(), 3)), True),
    ("F1", _ended(lambda found: f1_words(found.record)), True),
    ("rho", _ended(lambda found: _rho(found)), True),
    ("stall", _ended(lambda found: decimals(found.record.end("bit_stall_rate"), 3)), True),
    ("tau", _ended(lambda found: decimals(found.record.end("update_transfer"), 3)), False),
    ("overflow", _ended(lambda found: rate(found.record.worst_role("overflow_rate"))), False),
    ("underflow", _ended(lambda found: rate(found.record.worst_role("underflow_rate"))), False),
    ("verdict", _ended(lambda found: verdict_words(found.verdict)), True),
)
"""Heading, cell, and whether a narrow terminal shows it too."""
_WORDS = ("arm", "format", "outcome", "collapse", "verdict")


def results_table(record: SweepRecord, *, brief: bool = False) -> Table:
    """The table a sweep ends in; every figure in it is computed from the runs' events."""
    table = Table(
        title=f"sweep {record.name}", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    scored = any(result.finding and result.finding.record.series("micro_f1") for result in record.arms)
    asked = {"F1": scored, "rate": record.spec.tune is not None or bool(record.spec.rules)}
    columns = [column for column in _COLUMNS if asked.get(column[0], column[2] or not brief)]
    for heading, _, _ in columns:
        justify: Literal["left", "right"] = "left" if heading in _WORDS else "right"
        no_wrap = not brief or heading not in ("collapse", "verdict")
        table.add_column(heading, justify=justify, no_wrap=no_wrap, overflow="fold")
    for result in record.arms:
        if result.arm.kind == "tuning":
            continue
        cells = [Text(cell(result)) for _, cell, _ in columns]
        cells[-1].style = _GRADE_STYLES[result.finding.verdict.grade if result.finding else None]
        table.add_row(*cells)
    return table


def formats_table(record: SweepRecord) -> Table | None:
    """A line a format: what it comes to over all its seeds and texts; None where none has ended."""
    verdicts = format_verdicts(record.planned, record.findings)
    if not verdicts:
        return None
    table = _table("formats", ("arm", "in all", "rho", "gap", "fp32 steps"))
    for found in verdicts:
        steps = found.texts[0].gap.step
        reached = MISSING
        if found.step_ratio is not None and steps is not None:
            reached = f"{found.step_ratio * steps:.0f} of {steps}"
        rho, gap = _mean_and_half(found.rho, "{:.2f}"), _mean_and_half(found.gap, "{:+.3f}")
        table.add_row(found.arm, found.word or MISSING, rho, gap, reached)
    return table


def rates_table(record: SweepRecord) -> Table | None:
    """A line an arm: the learning rates tried, their losses and the best; None where none is tuned."""
    tried = record.rates_tried()
    if not tried:
        return None
    table = _table("learning rates tried", ("arm", "validation loss of the half that chooses", "best"))
    for each in tried:
        best = each.found.best if each.found.decided else None
        words = [rate_word(best)] if best is not None else ["none" if each.found.decided else MISSING]
        words += [f"widened by {each.widened}"] if each.widened else []
        words += [f"the {each.found.edge} tried"] if each.found.edge else []
        table.add_row(each.arm, each.words, ", ".join(words))
    return table


def gaps_table(record: SweepRecord) -> Table | None:
    """A line an arm: what it loses against float32; None where neither rules nor rates were compared."""
    gaps = _compared_gaps(record)
    if not gaps:
        return None
    rules = ("to fp32 of its rule", "to the best fp32") if record.spec.rules else ("to fp32",)
    table = _table("loss gap, nats", ("arm", "rate", "bits", "seeds", "rho", *rules))
    for gap in gaps:
        own = MISSING if gap.own.is_of_itself else _interval(gap.own)
        best = "is it" if gap.best.is_of_itself else _interval(gap.best)
        numbers = (decimals(gap.bits, 0), str(len(gap.best.pairs)), decimals(gap.rho, 2))
        cells = (own, best) if record.spec.rules else (own,)
        table.add_row(gap.arm, rate_word(gap.learning_rate), *numbers, *cells)
    return table


def _compared_gaps(record: SweepRecord) -> list[LossGap]:
    """The loss gaps, where there is more to them than the verdicts say."""
    compared = record.spec.rules or record.spec.tune is not None
    return loss_gaps(record.planned, record.findings) if compared else []


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _interval(paired: Paired) -> str:
    return _mean_and_half(paired.difference, "{:+.3f}")


def _mean_and_half(interval: Interval | None, form: str) -> str:
    """``+0.101 ± 0.020``, a dash for None; ``form`` is that of the mean."""
    if interval is None:
        return MISSING
    half = interval.half_width
    return form.format(interval.mean) + (f" ± {form.format(half).lstrip('+')}" if half is not None else "")


def full_width(console: Console, table: Table) -> int:
    """The columns it takes to show ``table`` uncut."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def table_notes(record: SweepRecord) -> list[str]:
    """What a reader of the table has to know."""
    notes = [_HOW_TO_READ.format(unit=loss_scale(record.spec.base.subject).unit)]
    for reason, names in arms_without_verdict(record.findings).items():
        notes.append(f"No verdict ({', '.join(names)}): {reason}.")
    notes += [f"{equal}: one experiment under power-of-two scales." for equal in record.equivalences]
    notes += _words_on_formats(record)
    if len(record.spec.seeds) == 1:
        notes.append(f"One seed: rho differs by about {SEED_SPREAD} between seeds.")
    tried = [each for each in record.rates_tried() if each.found.decided]
    widened = ", ".join(f"{each.arm} by {each.widened}" for each in tried if each.widened)
    notes += [f"Rates beyond the grid, whose best rate was at an edge: {widened}."] if widened else []
    notes += [f"{each}." for each in tried if each.found.edge or each.found.best is None]
    notes += [_HOW_GAPS_ARE_READ] if _compared_gaps(record) else []
    notes += [str(comparison) for comparison in compare_seeds(record.planned, record.findings)]
    causes = [*record.stage_attributions(), *record.layer_attributions()]
    notes += [line for cause in causes for line in str(cause).splitlines()]
    return notes


def _words_on_formats(record: SweepRecord) -> list[str]:
    """What the words of ``formats_table`` rest on, and the order of the formats."""
    by_evidence: dict[str, list[str]] = {}
    for found in format_verdicts(record.planned, record.findings):
        by_evidence.setdefault(found.evidence, []).append(found.arm)
    notes = [_HOW_FORMATS_ARE_READ] if by_evidence else []
    notes += [f"{', '.join(arms)}: {evidence}." for evidence, arms in by_evidence.items()]
    for ranked in rankings(record.planned, record.findings):
        if len(ranked) > 1:
            notes.append(
                f"From the lowest loss gap on: {', '.join(map(str, ranked))}. In parentheses the chance that "
                "it is better than the one before it, on the text where that is likeliest."
            )
    return notes


def f1_words(record: RunRecord) -> str:
    """``0.75/0.17``: micro and macro F1 of the last evaluation; a dash where there are none."""
    scores = [record.series(metric).last() for metric in ("micro_f1", "macro_f1")]
    return MISSING if None in scores else "/".join(decimals(score, 2) for score in scores)


def verdict_words(verdict: Verdict) -> str:
    """``failed (stalled)``, ``trained, borderline``, or that there is none; a dash for an end of rho.

    Why there is none is the same for many arms: ``table_notes`` says it once.
    """
    if verdict.grade is not None:
        words = verdict.grade + (f" ({verdict.cause})" if verdict.cause else "")
        return words + (", borderline" if verdict.borderline else "")
    if verdict.recovered_fraction is not None:
        return MISSING
    return "no verdict" + (f"; suspected: {verdict.cause}" if verdict.cause else "")


def ending(found: JudgedRun) -> str:
    """How an arm ended, in a line."""
    collapse = f" ({words})" if (words := _collapse(found)) else ""
    rho = f", rho {_rho(found)}" if found.rho is not None else ""
    verdict = f", suspected: {found.verdict.cause}" if found.verdict.cause else ""
    if found.verdict.grade:
        verdict = f", {verdict_words(found.verdict)}"
    return f"{found.outcome}{collapse}: val loss {decimals(found.record.validation.last(), 3)}{rho}{verdict}"


def _collapse(found: JudgedRun) -> str:
    if found.collapse is None:
        return f"warning: {found.warning}" if found.warning else ""
    return collapse_words({**found.collapse, "step": found.collapse_step})


def _rho(found: JudgedRun) -> str:
    return MISSING if found.rho is None else f"{decimals(found.rho, 2)}@{found.step}"


def rate(value: float | None) -> str:
    """A rate as a percentage, however small; a dash for what was not measured."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    return "0" if value == 0 else f"{100 * value:.2g}%" if value < 0.1 else f"{100 * value:.0f}%"
