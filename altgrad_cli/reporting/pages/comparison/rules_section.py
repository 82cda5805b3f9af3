"""Which format gains most from which update rule, at how many bits a weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import (
    Block,
    Section,
    Table,
    TableColumn,
    Text,
    listed,
    picture,
    section,
)
from altgrad_cli.reporting.blocks.palette import color_of
from altgrad_cli.reporting.blocks.sources import ROW
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


def _benches(scope: Scope) -> list[list[_Row]]:
    """Arms that are held against the same runs, where more than one rule was run; one list a text."""
    benches: dict[tuple[str, int | None], list[_Row]] = {}
    for gap in loss_gaps(scope.evidence.arms.values(), scope.evidence.findings):
        if gap.best.difference is not None:
            first = gap.best.pairs[0][0]
            row = _Row(gap, scope.evidence.arms[first].format, scope.evidence.run(first).control)
            benches.setdefault((gap.best.seconds, gap.best.step), []).append(row)
    return [rows for rows in benches.values() if len({row.gap.rule for row in rows}) > 1]


def best_rules(scope: Scope) -> tuple[Block, ...] | None:
    """How a report on rules opens: who gains, the picture, and the best rule of every format.

    The table and the picture are those of the first text. None where no two rules were run.
    """
    benches = _benches(scope)
    if not benches:
        return None
    answers = (_who_gains(scope, rows, named=len(benches) > 1) for rows in benches)
    best = [min(members, key=lambda row: row.nats) for members in _by_format(benches[0]).values()]
    blocks = (
        Text(" ".join(answers)),
        picture(_figure(benches[0], _key(benches, 0)), _CAPTION),
        _table(scope, sorted(best, key=lambda row: row.nats), _COLUMNS_OF_BEST),
    )
    return tuple(block for block in blocks if block is not None)


def _who_gains(scope: Scope, rows: Sequence[_Row], *, named: bool) -> str:
    """Which formats gain outside the noise, by which rule, and whether float32 does as well."""
    gains = _gains(scope, rows)
    formats = [gain for gain in gains if gain.best.control is None]
    where = f"On {_text_of(scope, rows)}, " if named else ""
    sure = [
        gain for gain in formats if gain.paired.difference and gain.paired.difference.within_noise is False
    ]
    said = f"{where}{_seeds_words(scope, rows[0])}: "
    if sure:
        said += "; ".join(_gain_words(scope, gain) for gain in sure) + "."
    elif formats:
        said += f"no gain is known to be outside the noise; the largest: {_gain_words(scope, formats[0])}."
    else:
        said += "no format gains from any rule over the first."
    of_fp32 = next((gain for gain in gains if gain.best.control == "fp32"), None)
    if of_fp32 is not None:
        said += f" For comparison, {_gain_words(scope, of_fp32)}."
    return said


def _gain_words(scope: Scope, gain: _Gain) -> str:
    nats = scope.evidence.cite_difference(gain.paired)
    return f"{gain.best.format} gains {nats} nats by `{gain.best.gap.rule}`"


def _seeds_words(scope: Scope, row: _Row) -> str:
    count = scope.evidence.cite(f"{scope.evidence.group_name(_runs(row))}: number")
    return f"{count} seeds" if len(row.gap.best.pairs) > 1 else f"{count} seed"


def _runs(row: _Row) -> list[str]:
    return [name for name, _ in row.gap.best.pairs]


def _text_of(scope: Scope, rows: Sequence[_Row]) -> str:
    return scope.evidence.cite(f"{scope.evidence.group_name(_runs(rows[0]))}: common corpus.source")


def _key(benches: Sequence[Sequence[_Row]], number: int) -> str:
    return f"rules-{number + 1}" if len(benches) > 1 else "rules"


_CAPTION = (
    "A point is a format with a rule at its best learning rate, the mean over the seeds; the line joins "
    "those of a format that no other with as few bits beats, and the bar is half of the interval over "
    "the seeds."
)


def rules_section(scope: Scope) -> Section | None:
    """Formats by rules, where more than one rule was run; a table a text, the pictures after the first."""
    blocks: list[Block | None] = []
    benches = _benches(scope)
    for number, rows in enumerate(benches):
        blocks += [Text(f"On {_text_of(scope, rows)}:"), _answer(scope, rows)]
        if number:
            blocks.append(picture(_figure(rows, _key(benches, number)), _CAPTION))
        blocks.append(_table(scope, rows, _COLUMNS))
    key = (
        "The gap is the validation loss less that of the best fp32 run of the same seed, ± half of its "
        "Student-t interval over the seeds. Bits a weight are those that are kept from step to step of a "
        "weight in the blocks: the weight, what its rule keeps beside it, and the moments. fp32 is measured "
        "with every rule too: a rule that is better there is a better optimizer, and no cure."
    )
    return section("Rules", *blocks, Text(key)) if blocks else None


_COLUMNS = {
    "rule": "common config.optimizer.rule",
    "rounding": "common config.precision.rounding",
    "rate": "common config.learning_rate",
    "bits a weight": "common bits_a_weight",
    "loss": "average at(validation_loss)@{step}",
    "gap": "paired at(validation_loss)@{step}",
    "±": "halfwidth at(validation_loss)@{step}",
    "tau": "average end(update_transfer)",
    "flips": "average end(flip_rate)",
    "effective rank": "average last(effective_rank)",
}
_COLUMNS_OF_BEST = ("rule", "rounding", "rate", "bits a weight", "gap", "±")


def _table(scope: Scope, rows: Sequence[_Row], shown: Iterable[str]) -> Table | None:
    """One row an arm; gaps are those to the best fp32."""
    best = rows[0].gap.best
    against = scope.evidence.group_name([name for _, name in best.pairs])
    columns = []
    for header in shown:
        quantity = _COLUMNS[header].replace("{step}", str(best.step))
        runs = f"{ROW},{against}" if header in ("gap", "±") else ROW
        columns.append(TableColumn(header, f"{runs}: {quantity}"))
    return scope.evidence.table("arm", [scope.evidence.group_name(_runs(row)) for row in rows], columns)


def _by_format(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    formats: dict[str, list[_Row]] = {}
    for row in rows:
        formats.setdefault(row.format, []).append(row)
    return formats


@dataclass(frozen=True, slots=True)
class _Gain:
    """What the best rule of a format gives over its first one.

    Both are at the rate that is best for them. That a rule is the best is read off the same losses.
    """

    first: _Row
    best: _Row
    paired: Paired


def _gains(scope: Scope, rows: Sequence[_Row]) -> list[_Gain]:
    """Of every format whose first rule is not its best, the largest gain first."""
    found = []
    for members in _by_format(rows).values():
        first, best = members[0], min(members, key=lambda row: row.nats)
        if best is not first and math.isfinite(first.nats - best.nats):
            pairs = zip(first.gap.best.pairs, best.gap.best.pairs, strict=False)
            paired = pair_up([(a, b) for (a, _), (b, _) in pairs], scope.evidence.findings)
            found.append(_Gain(first, best, paired))
    return sorted(found, key=lambda gain: gain.best.nats - gain.first.nats)


def _answer(scope: Scope, rows: Sequence[_Row]) -> Text | None:
    """A sentence a format, the largest gain first."""
    lines = []
    for gain in _gains(scope, rows):
        best = gain.best.gap
        against = f"{best.best.firsts},{best.best.seconds}"
        left = scope.evidence.cite(f"{against}: paired at(validation_loss)@{best.best.step}")
        nats = scope.evidence.cite_difference(gain.paired)
        lines.append(
            f"**{gain.best.format}** gains {nats} nats by `{best.rule}` over `{gain.first.gap.rule}` "
            f"({_noise(gain.paired, scope)}); {left} to the best fp32 are left."
        )
    return listed(lines)


def _noise(gain: Paired, scope: Scope) -> str:
    """Whether the gain is noise, and of how many seeds that is said."""
    seeds = scope.evidence.cite(f"{gain.firsts}: number")
    if gain.difference is None or gain.difference.half_width is None:
        return f"{seeds} seed: a measurement, not a verdict"
    return f"{seeds} seeds, one text: {gain.difference.words}"


def _against_fp32(row: _Row) -> str:
    """The gap to the best fp32 in words that its interval carries."""
    difference = row.gap.best.difference
    half = None if difference is None else difference.half_width
    if half is None:
        return f"{row.nats:+.3f} nats to the best fp32 (one seed)"
    said = f"{row.nats:+.3f} ± {half:.3f} nats"
    if abs(row.nats) <= half:
        return f"{said}: not told apart from the best fp32"
    return f"{said}, {'above' if row.nats > 0 else 'below'} the best fp32"


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
        title = f"Lowest: {best.format} with {best.gap.rule}, {_against_fp32(best)}"
    return figures.TradeFigure(
        key,
        title,
        "bits kept of a weight: weight, residual, moments",
        "validation loss less that of the best fp32 (nats)",
        tuple(trades),
    )
