"""The page of published claims: verdicts, what each follows from, and the losses behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from altgrad_cli.claims.bench import SETTING_WORDS
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.judgement import Checked
from altgrad_cli.claims.measured import MeasuredClaim
from altgrad_cli.notation import decimals, format_value
from altgrad_cli.reporting.blocks.document import Report, Text, plain_table, section

_HOLDS = {True: "yes", False: "no", None: "open"}
_READING = (
    "A claim agrees where every condition holds and disagrees where one is contradicted: by the whole 95 %"
    " interval over the seeds, paired by seed. In between, or where a premise fails, nothing can be told. The"
    " bounds stand in the code beside the claims, set before measuring."
)


def claims_report(measured: Sequence[MeasuredClaim]) -> Report:
    """The page of what was measured, in its order."""
    counts = Counter(each.judgement.verdict for each in measured)
    said = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
    verdicts = plain_table(
        ("claim", "verdict", "says", "source", "measured on"),
        [
            (m.claim.name, m.judgement.verdict, m.claim.sentence, m.claim.source, m.measurement.scope)
            for m in measured
        ],
    )
    conditions = plain_table(
        ("claim", "condition", "measured", "holds"),
        [
            (m.claim.name, each.condition.words, measured_words(each), condition_word(each))
            for m in measured
            for each in m.judgement.checked
        ],
    )
    here = plain_table(("claim", "what stands for it here"), [(m.claim.name, m.claim.here) for m in measured])
    losses = plain_table(
        ("claim", "arm", "validation loss by seed"),
        [
            (m.claim.name, arm, " ".join(decimals(value, 3) for value in values))
            for m in measured
            for arm, values in m.measurement.losses.items()
        ],
    )
    left = [name for name in CLAIMS if name not in {m.claim.name for m in measured}]
    not_asked = f" Not asked for here: {', '.join(left)}." if left else ""
    opening = f"Of {len(measured)} published claims, by verdict: {said}."
    short = plain_table(("claim", "verdict"), [(m.claim.name, m.judgement.verdict) for m in measured])
    sections = (
        section("Claims and sources", Text(f"{_READING} {SETTING_WORDS}{not_asked}"), verdicts),
        section("Conditions", conditions),
        section("Tests", here),
        section("Losses", losses),
    )
    return Report(
        "Published claims, measured here",
        tuple(each for each in sections if each is not None),
        opening=tuple(block for block in (Text(opening), short) if block is not None),
    )


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
