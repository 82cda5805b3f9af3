"""The page of claims: short, its picture says what the verdicts say, and nothing in it is cut."""

from __future__ import annotations

import math

import pytest

from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues, check, judge
from altgrad_cli.claims.measured import MeasuredClaim
from altgrad_cli.reporting.blocks.figures import SpreadFigure
from altgrad_cli.reporting.pages.measured_claims import FARTHEST, claim_margin, claims_report, margin
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.render.pictures import draw
from tests.reporting.render.test_overprint import faults
from tests.test_reports_are_short import MOST_IN_ONE, open_words

ABOVE, BELOW = Condition("gap", "above", 0.05), Condition("gap", "below", 0.05)


def planted(name: str, sides: int, spread: float) -> MeasuredClaim:
    """Every premise holds; the others lie ``sides`` to the right side of their bounds, more or less."""
    claim = CLAIMS[name]
    samples = []
    for condition in claim.conditions:
        side = (1 if condition.relation == "above" else -1) * (1 if condition.premise else sides)
        width = 0.0 if condition.premise else spread
        samples.append(SeedValues(tuple(condition.bound + side + width * seed for seed in (-1, 0, 1))))
    measurement = Measurement(tuple(samples), (1, 2, 3), ("a text",), (1e-3,))
    return MeasuredClaim(claim, measurement, judge(claim.conditions, measurement))


@pytest.mark.parametrize("condition", [ABOVE, BELOW])
@pytest.mark.parametrize("values", [(0.2, 0.24, 0.22), (0.0, 0.01, -0.01), (0.03, 0.06, 0.07), (0.05, 0.05)])
def test_a_margin_beyond_one_is_what_decides(condition: Condition, values: tuple[float, ...]) -> None:
    checked = check(condition, SeedValues(values))
    expected = True if margin(checked) > 1 else False if margin(checked) <= -1 else None
    assert checked.holds is expected


def test_an_exact_value_is_infinitely_far_and_one_seed_nowhere() -> None:
    assert margin(check(ABOVE, SeedValues((0.06,), exact=True))) == math.inf
    assert margin(check(BELOW, SeedValues((0.06,), exact=True))) == -math.inf
    assert math.isnan(margin(check(ABOVE, SeedValues((0.06,)))))


def every_claim() -> list[MeasuredClaim]:
    """A third of each verdict, some very clear."""
    kinds = ((1, 0.01), (-1, 0.1), (1, 0.6))
    return [planted(name, *kinds[number % 3]) for number, name in enumerate(CLAIMS)]


def test_the_picture_says_what_the_verdicts_say() -> None:
    measured = every_claim()
    (figure,) = claims_report(measured).figures
    assert isinstance(figure, SpreadFigure)
    drawn = {row.label: row.values[0] for row in figure.rows}
    assert len(drawn) == len(CLAIMS)
    for each in measured:
        said = "agrees" if drawn[each.claim.name] > 1 else "disagrees"
        assert each.judgement.verdict == ("cannot tell" if abs(drawn[each.claim.name]) <= 1 else said)
        assert drawn[each.claim.name] == pytest.approx(max(-FARTHEST, min(FARTHEST, claim_margin(each))))
    assert list(drawn.values()) == sorted(drawn.values(), reverse=True)
    assert faults(draw(figure)) == []


def test_what_has_no_premise_is_not_drawn() -> None:
    claim = CLAIMS["fp8-pair"]
    samples = (SeedValues((0.0, 0.0, 0.0)), SeedValues((0.0, 0.0, 0.001)))
    measurement = Measurement(samples, (1, 2, 3), ("a text",), (1e-3,))
    judged = judge(claim.conditions, measurement)
    report = claims_report([MeasuredClaim(claim, measurement, judged)])
    assert report.figures == []
    both = claims_report([planted("saturate", 1, 0.1), MeasuredClaim(claim, measurement, judged)])
    assert "Not drawn, since a premise does not hold: fp8-pair." in to_markdown(both, "claims")


def test_the_page_of_all_claims_is_short_and_counts_them() -> None:
    text = to_markdown(claims_report(every_claim()), "claims")
    assert open_words(text) <= MOST_IN_ONE
    third = len(CLAIMS) // 3
    assert f"Of {len(CLAIMS)} published claims" in text
    assert f"{third} cannot be told" in text
    assert text.index("Claims that cannot be told") < text.index("Claims that disagree")
    assert "Not asked for" not in text and "Not measured" not in text
