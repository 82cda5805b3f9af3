"""The page of published claims: verdicts, what each follows from, and the losses behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from altgrad_cli.claims.bench import SETTING_WORDS
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.judgement import Checked, ClaimVerdict
from altgrad_cli.claims.measured import MeasuredClaim
from altgrad_cli.notation import decimals, format_value
from altgrad_cli.reporting.blocks import palette
from altgrad_cli.reporting.blocks.document import (
    Picture,
    Report,
    Section,
    Text,
    picture,
    plain_table,
    section,
)
from altgrad_cli.reporting.blocks.figures import Spread, SpreadFigure

_HOLDS = {True: "yes", False: "no", None: "open"}
_SAYS: dict[ClaimVerdict, tuple[str, str]] = {
    "agrees": ("agrees", "agree"),
    "disagrees": ("disagrees", "disagree"),
    "cannot tell": ("cannot be told", "cannot be told"),
}
"""Of one claim, and of several."""
_COLORS: dict[ClaimVerdict, str] = {
    "agrees": palette.INK,
    "disagrees": palette.NONFINITE,
    "cannot tell": palette.GREY,
}
FIGURE = "claims"
"""The picture's key."""
FARTHEST = 5.0
"""Widths from its bound beyond which a claim is drawn no farther: the nearer ones are what is looked at."""
_READING = (
    "A claim agrees where every condition holds and disagrees where one is contradicted: by the whole 95 %"
    " interval over the seeds, paired by seed. In between, or where a premise fails, nothing can be told. The"
    " bounds stand in the code beside the claims, set before measuring. `altgrad claims` measures all of it"
    " again; no run is kept."
)


def claims_report(measured: Sequence[MeasuredClaim], left: Sequence[Claim] = ()) -> Report:
    """The page of what was measured, and of what was asked for and is ``left``, in the registry's order."""
    order = list(CLAIMS)
    measured = sorted(measured, key=lambda each: order.index(each.claim.name))
    by_verdict = {
        verdict: found
        for verdict in _SAYS
        if (found := [each for each in measured if each.judgement.verdict == verdict])
    }
    opening = (
        f"Of {len(measured)} published claims, tested on small runs: {_counted(measured) or 'nothing yet'}."
    )
    if left:
        opening += f" **Not measured: {', '.join(claim.name for claim in left)}.**"
    short = plain_table(
        ("verdict", "number", "claims"),
        [(verdict, len(found), _names(found)) for verdict, found in by_verdict.items()],
    )
    unasked = [name for name in CLAIMS if name not in {each.name for each in _claims(measured, left)}]
    not_asked = f" Not asked for here: {', '.join(unasked)}." if unasked else ""
    losses = plain_table(
        ("claim", "arm", "validation loss by seed"),
        [
            (m.claim.name, arm, " ".join(decimals(value, 3) for value in values))
            for m in measured
            for arm, values in m.measurement.losses.items()
        ],
    )
    sections = (
        *(_verdict_section(verdict, found) for verdict, found in reversed(by_verdict.items())),
        section("How to read it", Text(f"{_READING} {SETTING_WORDS}{not_asked}")),
        section("Losses", losses),
    )
    blocks = (Text(opening), margins_picture(measured), short)
    return Report(
        "Published claims, measured here",
        tuple(each for each in sections if each is not None),
        opening=tuple(block for block in blocks if block is not None),
    )


def _counted(measured: Sequence[MeasuredClaim]) -> str:
    """``11 agree, 1 disagrees``."""
    numbers = {verdict: sum(each.judgement.verdict == verdict for each in measured) for verdict in _SAYS}
    return ", ".join(
        f"{number} {_SAYS[verdict][number > 1]}" for verdict, number in numbers.items() if number
    )


def _claims(measured: Sequence[MeasuredClaim], left: Sequence[Claim]) -> list[Claim]:
    return [*(each.claim for each in measured), *left]


def _names(found: Sequence[MeasuredClaim]) -> str:
    return ", ".join(each.claim.name for each in found)


def _verdict_section(verdict: ClaimVerdict, found: Sequence[MeasuredClaim]) -> Section | None:
    """What the claims of one verdict say, and what it follows from."""
    said = plain_table(
        ("claim", "says", "source", "what stands for it here", "measured on"),
        [(m.claim.name, m.claim.sentence, m.claim.source, m.claim.here, m.measurement.scope) for m in found],
    )
    conditions = plain_table(
        ("claim", "condition", "measured", "holds"),
        [
            (m.claim.name, each.condition.words, measured_words(each), condition_word(each))
            for m in found
            for each in m.judgement.checked
        ],
    )
    return section(f"Claims that {_SAYS[verdict][1]}", said, conditions)


def margin(checked: Checked) -> float:
    """How far a mean lies on the claimed side of its bound, in half widths of its interval.

    Beyond 1 the condition holds, below -1 it is contradicted. An exact value is infinitely far; NaN without
    an interval.
    """
    interval, condition = checked.sample.interval, checked.condition
    if interval.half_width is None:
        return math.nan
    distance = interval.mean - condition.bound
    if condition.relation == "below":
        distance = -distance
    if interval.half_width == 0:
        return math.copysign(math.inf, 1 if checked.holds else -1)
    return distance / interval.half_width


def claim_margin(measured: MeasuredClaim) -> float:
    """That of the condition which decides: the smallest. NaN where one has none."""
    margins = [margin(each) for each in measured.judgement.checked if not each.condition.premise]
    return math.nan if any(math.isnan(value) for value in margins) else min(margins)


def margins_picture(measured: Sequence[MeasuredClaim]) -> Picture | None:
    """How clearly each claim came out as claimed, or not; those whose premise holds and have an interval."""
    rows, without = [], []
    for each in measured:
        if not all(found.holds for found in each.judgement.checked if found.condition.premise):
            without.append(each.claim.name)
            continue
        if not math.isnan(value := claim_margin(each)):
            shown = max(-FARTHEST, min(FARTHEST, value))
            color = _COLORS[each.judgement.verdict]
            rows.append((value, Spread(each.claim.name, (shown,), (each.claim.name,), color)))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[0])
    figure = SpreadFigure(
        FIGURE,
        f"Published claims: {_counted(measured)}",
        "distance of the deciding condition from its bound, in half widths of its 95 % interval",
        tuple(row for _, row in rows),
        ((-1.0, "disagrees left of here"), (1.0, "agrees right of here")),
    )
    caption = f"In between nothing can be told; beyond {FARTHEST:g} is drawn at {FARTHEST:g}."
    if without:
        caption += f" Not drawn, since a premise does not hold: {', '.join(without)}."
    return picture(figure, caption)


def list_of_claims(claims: Sequence[Claim]) -> Report:
    """What each claim says, before anything is measured."""
    rows = [(each.name, "runs" if each.trains else "moments", each.sentence, each.source) for each in claims]
    listed = section("", plain_table(("claim", "takes", "says", "source"), rows))
    return Report("Published claims", () if listed is None else (listed,))


def measured_words(checked: Checked) -> str:
    """The mean with its interval: ``0.21 +- 0.04 nats``."""
    interval = checked.sample.interval
    width = "" if interval.half_width == 0 else f" +- {format_value(interval.half_width)}"
    return f"{format_value(interval.mean)}{width} {checked.condition.unit}".rstrip()


def condition_word(checked: Checked) -> str:
    """``yes``, ``no`` or ``open``; a premise says that it is one."""
    return _HOLDS[checked.holds] + (" (premise)" if checked.condition.premise else "")
