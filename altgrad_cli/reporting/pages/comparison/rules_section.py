"""Which format gains most from which update rule, at how many bits a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altgrad_cli.config.memory import bits_a_weight
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import Section, TableColumn, Text, listed, picture, section
from altgrad_cli.reporting.blocks.palette import color_of
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.sweeps.comparison import LossGap, loss_gaps


@dataclass(frozen=True, slots=True)
class _Row:
    """An arm over its seeds, and the runs that it is held against."""

    gap: LossGap
    format: str
    control: str | None
    bits: int | None

    @property
    def runs(self) -> str:
        """Its runs, as a source names several."""
        return ",".join(first for first, _ in self.gap.best.pairs)

    @property
    def against(self) -> str:
        """The runs of the best fp32, seed by seed."""
        return ",".join(second for _, second in self.gap.best.pairs)

    @property
    def nats(self) -> float:
        """The mean gap."""
        difference = self.gap.best.difference
        return math.inf if difference is None or math.isnan(difference.mean) else difference.mean


def rules_section(scope: Scope) -> Section | None:
    """Formats by rules, where more than one rule was run."""
    rows = _rows(scope)
    if len({row.gap.rule for row in rows}) < 2:
        return None
    key = (
        "The gap is the validation loss less that of the best fp32 run of the same seed. Bits a weight are "
        "those that are kept from step to step of a weight in the blocks: the weight, what its rule keeps "
        "beside it, and the moments. fp32 is measured with every rule too: a rule that is better there is a "
        "better optimizer, and no cure."
    )
    columns = [
        TableColumn("rule", "{}: common config.optimizer.rule"),
        TableColumn("rounding", "{}: common config.precision.rounding"),
        TableColumn("rate", "{}: common config.learning_rate"),
        TableColumn("bits a weight", "{}: common bits_a_weight"),
        TableColumn("loss", "{}: average last(validation_loss)"),
    ]
    shared = {(row.against, row.gap.best.step) for row in rows}
    if len(shared) == 1:
        ((against, step),) = shared
        columns += [
            TableColumn("gap", f"{{}},{against}: paired at(validation_loss)@{step}"),
            TableColumn("±", f"{{}},{against}: halfwidth at(validation_loss)@{step}"),
        ]
    columns += [
        TableColumn("tau", "{}: average end(update_transfer)"),
        TableColumn("flips", "{}: average end(flip_rate)"),
        TableColumn("effective rank", "{}: average last(effective_rank)"),
    ]
    table = scope.evidence.table("runs", [row.runs for row in rows], columns)
    drawn = picture(
        _figure(rows),
        "A point is a format with a rule at its best learning rate, the mean over the seeds; the line joins "
        "a format's lowest gaps, and the bar is half a 95 % interval over the seeds.",
    )
    return section("Which format gains from which update rule", _answer(scope, rows), drawn, Text(key), table)


def _rows(scope: Scope) -> list[_Row]:
    rows = []
    for gap in loss_gaps(scope.evidence.arms.values(), scope.evidence.findings):
        if gap.best.difference is not None:
            arm = scope.evidence.arms[gap.best.pairs[0][0]]
            bits = bits_a_weight(arm.config)
            control = scope.evidence.run(arm.name).control
            rows.append(_Row(gap, arm.format, control, None if bits is None else bits.total))
    return rows


def _by_format(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    formats: dict[str, list[_Row]] = {}
    for row in rows:
        formats.setdefault(row.format, []).append(row)
    return formats


def _answer(scope: Scope, rows: Sequence[_Row]) -> Text | None:
    """A sentence a format, the largest gain first: what its best rule gives over its first one."""
    found = []
    for name, members in _by_format(rows).items():
        first, best = members[0], min(members, key=lambda row: row.nats)
        if best is first or not math.isfinite(first.nats - best.nats):
            continue
        step = best.gap.best.step
        names = f"{first.runs},{best.runs}"
        cite = scope.evidence.cite
        gain = cite(f"{names}: paired at(validation_loss)@{step}")
        if len(best.gap.best.pairs) > 1:
            gain += f" ± {cite(f'{names}: halfwidth at(validation_loss)@{step}')}"
        left = cite(f"{best.runs},{best.against}: paired at(validation_loss)@{step}")
        words = (
            f"**{name}** gains {gain} nats by `{best.gap.rule}` over `{first.gap.rule}`; "
            f"{left} to the best fp32 are left."
        )
        found.append((first.nats - best.nats, words))
    return listed(words for _, words in sorted(found, key=lambda pair: -pair[0]))


def _figure(rows: Sequence[_Row]) -> figures.TradeFigure | None:
    trades = []
    for name, members in _by_format(rows).items():
        points = [row for row in members if row.bits is not None and math.isfinite(row.nats)]
        if not points:
            continue
        halves = [row.gap.best.difference and row.gap.best.difference.half_width for row in points]
        trades.append(
            figures.Trade(
                name,
                np.array([row.bits for row in points], dtype=float),
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
        "rules",
        title,
        "bits kept of a weight: weight, residual, moments",
        "validation loss less that of the best fp32 (nats)",
        tuple(trades),
    )
