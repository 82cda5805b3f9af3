"""Learning rates that were tried, and what every arm at its best one loses against float32."""

from __future__ import annotations

import math

from altgrad_cli.reporting.blocks.document import Section, Text, listed, section
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.sweeps.comparison import LossGap, Paired, loss_gaps
from altgrad_cli.sweeps.tuning import BEYOND_IT, RatesTried, rates_tried


def gaps_section(scope: Scope) -> Section | None:
    """Validation loss less that of fp32, seed by seed; None where neither rules nor rates were compared."""
    arms = scope.evidence.arms.values()
    gaps = loss_gaps(arms, scope.evidence.findings)
    if len({gap.rule for gap in gaps}) < 2 and not any(arm.kind == "tuning" for arm in arms):
        return None
    key = (
        "Validation loss less that of the fp32 run of the same seed, with half of its Student-t interval "
        "over the seeds, where there are several. Against fp32 with the same update rule it is what the "
        "format costs, against the best fp32 what format and rule cost together. The best is of the rule "
        "with the lowest loss among the learning rates tried, or of the first rule where none were."
    )
    lines = [_gap(scope, gap) for gap in gaps if gap.best.difference is not None]
    return section("Loss gaps", Text(key), listed(lines)) if lines else None


def _gap(scope: Scope, gap: LossGap) -> str:
    first = scope.evidence.of(scope.evidence.run(gap.best.pairs[0][0]))
    said = []
    if gap.own.difference is not None and not gap.own.is_of_itself:
        said.append(f"{_difference(scope, gap.own)} against fp32 of its rule")
    if gap.best.is_of_itself:
        said.append("the best fp32")
    elif gap.best.pairs != gap.own.pairs:
        said.append(f"{_difference(scope, gap.best)} against `{gap.against}`")
    return (
        f"`{gap.arm}` (rule {first('config.optimizer.rule')}, learning rate "
        f"{first('config.learning_rate')}): {'; '.join(said)}."
    )


def _difference(scope: Scope, paired: Paired) -> str:
    n = scope.evidence.of(scope.evidence.run(paired.pairs[0][0]))
    return f"{scope.evidence.cite_difference(paired)} nats at step {n(f'step@{paired.step}')}"


def rates_section(scope: Scope) -> Section | None:
    """One line an arm: each rate with its loss, and which was the best; None where none was tuned."""
    tried = rates_tried(scope.evidence.arms.values(), scope.evidence.findings)
    key = (
        "Every arm, controls included, at several learning rates with every seed; its runs above are at the "
        "rate of the lowest mean validation loss. They are of the first half of the validation split, "
        "the results above are of its second half, which chose nothing."
    )
    lines = [_rates(scope, each) for each in tried]
    return section("Learning rates", Text(key), listed(lines)) if lines else None


def _rates(scope: Scope, tried: RatesTried) -> str:
    found = tried.found
    best = found.best if found.decided else None
    text = f"`{tried.arm}`: {'; '.join(_rate(scope, tried, rate, best) for rate in tried.trials)}."
    if not found.decided:
        return f"{text} Not every one has ended."
    if found.edge:
        return f"{text} The best is the {found.edge} tried: a better one may lie beyond."
    return f"{text} It diverges at every one, so it has no runs above." if best is None else text


def _rate(scope: Scope, tried: RatesTried, rate: float, best: float | None) -> str:
    trials = tried.trials[rate]
    ns = [scope.evidence.of(scope.evidence.run(arm.name)) for arm in trials]
    added = " (beyond the grid)" if trials[0].reason == BEYOND_IT else ""
    losses = ", ".join(n("last(validation_loss)") for n in ns)
    text = f"{ns[0]('config.learning_rate')}{added} gives {losses}"
    if not math.isfinite(tried.losses.get(rate, 0.0)):
        text += f", which counts as infinite ({', '.join(dict.fromkeys(n('ended') for n in ns))})"
    return f"**{text}**" if rate == best else text
