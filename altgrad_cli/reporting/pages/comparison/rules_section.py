"""Which format gains most from which update rule, at how many bits a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import Block, Section, TableColumn, Text, listed, picture, section
from altgrad_cli.reporting.blocks.palette import color_of
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.sweeps.comparison import LossGap, Paired, loss_gaps, pair_up


@dataclass(frozen=True, slots=True)
class _Row:
    """An arm over its seeds, and the runs that it is held against."""

    gap: LossGap
    format: str
    control: str | None

    @property
    def nats(self) -> float:
        """The mean gap; inf where it is not known."""
        difference = self.gap.best.difference
        return math.inf if difference is None or math.isnan(difference.mean) else difference.mean


def rules_section(scope: Scope) -> Section | None:
    """Formats by rules, where more than one rule was run; one table and picture a text."""
    benches: dict[tuple[str, int | None], list[_Row]] = {}
    for gap in loss_gaps(scope.evidence.arms.values(), scope.evidence.findings):
        if gap.best.difference is not None:
            first = gap.best.pairs[0][0]
            row = _Row(gap, scope.evidence.arms[first].format, scope.evidence.run(first).control)
            benches.setdefault((gap.best.seconds, gap.best.step), []).append(row)
    blocks: list[Block | None] = []
    for number, rows in enumerate(benches.values(), 1):
        if len({row.gap.rule for row in rows}) > 1:
            blocks += _bench(scope, rows, f"rules-{number}" if len(benches) > 1 else "rules")
    key = (
        "The gap is the validation loss less that of the best fp32 run of the same seed, ± half of its "
        "Student-t interval over the seeds. Bits a weight are those that are kept from step to step of a "
        "weight in the blocks: the weight, what its rule keeps beside it, and the moments. fp32 is measured "
        "with every rule too: a rule that is better there is a better optimizer, and no cure."
    )
    return section("Which format gains from which update rule", *blocks, Text(key)) if blocks else None


def _bench(scope: Scope, rows: Sequence[_Row], key: str) -> list[Block | None]:
    """The answer, the picture and the table of arms that are held against the same runs."""
    against, step = rows[0].gap.best.seconds, rows[0].gap.best.step
    columns = [
        TableColumn("rule", "{}: common config.optimizer.rule"),
        TableColumn("rounding", "{}: common config.precision.rounding"),
        TableColumn("rate", "{}: common config.learning_rate"),
        TableColumn("bits a weight", "{}: common bits_a_weight"),
        TableColumn("loss", f"{{}}: average at(validation_loss)@{step}"),
        TableColumn("gap", f"{{}},{against}: paired at(validation_loss)@{step}"),
        TableColumn("±", f"{{}},{against}: halfwidth at(validation_loss)@{step}"),
        TableColumn("tau", "{}: average end(update_transfer)"),
        TableColumn("flips", "{}: average end(flip_rate)"),
        TableColumn("effective rank", "{}: average last(effective_rank)"),
    ]
    text = scope.evidence.cite(f"{rows[0].gap.best.firsts}: common corpus.source")
    caption = (
        "A point is a format with a rule at its best learning rate, the mean over the seeds; the line joins "
        "those of a format that no other with as few bits beats, and the bar is half of the interval over "
        "the seeds."
    )
    return [
        Text(f"On {text}:"),
        _answer(scope, rows),
        picture(_figure(rows, key), caption),
        scope.evidence.table("runs", [row.gap.best.firsts for row in rows], columns),
    ]


def _by_format(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    formats: dict[str, list[_Row]] = {}
    for row in rows:
        formats.setdefault(row.format, []).append(row)
    return formats


def _answer(scope: Scope, rows: Sequence[_Row]) -> Text | None:
    """A sentence a format, the largest gain first: what its best rule gives over its first one.

    Both are at the rate that is best for them. That a rule is the best is read off the same losses.
    """
    found = []
    for name, members in _by_format(rows).items():
        first, best = members[0], min(members, key=lambda row: row.nats)
        if best is first or not math.isfinite(first.nats - best.nats):
            continue
        pairs = zip(first.gap.best.pairs, best.gap.best.pairs, strict=False)
        gain = pair_up([(a, b) for (a, _), (b, _) in pairs], scope.evidence.findings)
        against = f"{best.gap.best.firsts},{best.gap.best.seconds}"
        left = scope.evidence.cite(f"{against}: paired at(validation_loss)@{best.gap.best.step}")
        words = (
            f"**{name}** gains {scope.evidence.cite_difference(gain)} nats by `{best.gap.rule}` over "
            f"`{first.gap.rule}` ({_noise(gain, scope)}); {left} to the best fp32 are left."
        )
        found.append((first.nats - best.nats, words))
    return listed(words for _, words in sorted(found, key=lambda pair: -pair[0]))


def _noise(gain: Paired, scope: Scope) -> str:
    """Whether the gain is noise, and of how many seeds that is said."""
    seeds = scope.evidence.cite(f"{gain.firsts}: number")
    if gain.difference is None or gain.difference.half_width is None:
        return f"{seeds} seed: a measurement, not a verdict"
    return f"{seeds} seeds, one text: {gain.difference.words}"


def _figure(rows: Sequence[_Row], key: str) -> figures.TradeFigure | None:
    trades = []
    for name, members in _by_format(rows).items():
        points = [row for row in members if row.gap.bits is not None and math.isfinite(row.nats)]
        if not points:
            continue
        halves = [row.gap.best.difference and row.gap.best.difference.half_width for row in points]
        trades.append(
            figures.Trade(
                name,
                np.array([row.gap.bits for row in points], dtype=float),
                np.array([row.nats for row in points]),
                np.array([half or 0.0 for half in halves]),
                tuple(row.gap.rule for row in points),
                color_of(name, points[0].control),
            )
        )
    if not trades:
        return None
    best = min((row for row in rows if row.control is None), key=lambda row: row.nats, default=None)
    title = "Loss gap against bits a weight"
    if best is not None and math.isfinite(best.nats):
        title = f"Closest to fp32: {best.format} with {best.gap.rule}, {best.nats:+.3f} nats"
    return figures.TradeFigure(
        key,
        title,
        "bits kept of a weight: weight, residual, moments",
        "validation loss less that of the best fp32 (nats)",
        tuple(trades),
    )
