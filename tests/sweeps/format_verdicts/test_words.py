"""What may be said of a format: planted losses against intervals and words worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from altgrad_cli.metrics.verdict import Grade
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.sweeps.comparison import Paired
from altgrad_cli.sweeps.format_verdicts.ranking import Ranked, rankings
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict, OnText, format_verdicts
from altgrad_cli.sweeps.results import SweepRecord, assemble
from altgrad_cli.sweeps.specification import SweepSpec
from tests.sweeps.conftest import WriteLog, spec

Losses = Mapping[str, Mapping[str, tuple[float, ...]]]
Plant = Callable[..., SweepRecord]

TEXTS = ("embedded", "law.jsonl")
ASKED = spec(order=("E7M0",), texts=TEXTS, seeds=(42, 43, 44), tune=(1e-3, 2e-3, 3e-3), retries=False)
FAILS: Losses = {"E7M0": {"embedded": (2.80, 2.82, 2.84), "law": (2.70, 2.71, 2.69)}}
"""Between fp32 at 2 and frozen at 3: rho .20, .18, .16 and .30, .29, .31."""


@pytest.fixture
def plant(write_log: WriteLog, tmp_path: Path) -> Plant:
    """A sweep with these last losses by format, text and seed; its controls end at 2 and 3 nats."""

    def make(asked: SweepSpec, losses: Losses, leave_out: tuple[str, ...] = ()) -> SweepRecord:
        records: dict[str, RunRecord] = {}
        while due := [
            arm.arm for arm in assemble(tmp_path, asked, records).unfinished if arm.arm.name not in leave_out
        ]:
            for arm in due:
                curve = {1: 4.0, 3: 3.0}
                if arm.kind == "tuning":
                    curve = {3: 2.0 + abs(arm.config.learning_rate - 2e-3)}
                elif arm.config.precision.regime in ("fp32", "bf16"):
                    curve[3] = 2.0
                elif arm.kind == "format":
                    text = "law" if arm.config.data.path else "embedded"
                    curve[3] = losses[arm.format][text][arm.config.seed - 42]
                records[arm.name] = read_run(write_log(arm.name, config=arm.config, validation=curve))
        return assemble(tmp_path, asked, records)

    return make


def only(record: SweepRecord) -> FormatVerdict:
    (found,) = format_verdicts(record.planned, record.findings)
    return found


def half(values: list[float], point: float) -> float:
    mean = sum(values) / len(values)
    return point * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def test_the_words_follow_the_intervals_of_every_text(plant: Plant) -> None:
    found = only(plant(ASKED, FAILS))
    assert (found.arm, found.word, found.lacks) == ("e7m0-uniform", "fails", ())
    assert found.evidence == "2 texts, 3 seeds on each, tuned rates"
    for each, rhos in zip(found.texts, ([0.20, 0.18, 0.16], [0.30, 0.29, 0.31]), strict=True):
        assert each.rho is not None and each.rho.half_width is not None
        assert each.rho.mean == pytest.approx(sum(rhos) / 3)
        assert each.rho.half_width == pytest.approx(half(rhos, 4.30))
    assert found.rho is not None and found.gap is not None
    assert (found.rho.mean, found.gap.mean) == pytest.approx((0.24, 0.76))
    for interval in (found.rho, found.gap):  # over two texts: one degree of freedom
        assert interval.half_width == pytest.approx(half([0.18, 0.30], 12.71))
    # fp32 falls from 4 at step 1 to 2 at step 3: it is down at 2.82 at step 2.18, at 2.70 at step 2.30.
    assert found.step_ratio == pytest.approx((2.18 / 3 + 2.30 / 3) / 2)


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"seeds": (42, 43)}, "2 seeds: a measurement, not a verdict"),
        ({"texts": TEXTS[:1]}, "one text: a measurement, not a verdict"),
        ({"tune": None}, "one rate: a measurement, not a verdict"),
        (
            {"seeds": (42,), "texts": TEXTS[:1], "tune": None},
            "one seed, one text, one rate: a measurement, not a verdict",
        ),
    ],
)
def test_without_a_seed_a_text_or_tuned_rates_the_words_are_weaker(
    changes: dict[str, object], evidence: str, plant: Plant
) -> None:
    found = only(plant(replace(ASKED, **changes), FAILS))  # type: ignore[arg-type]
    assert (found.word, found.evidence) == ("failed", evidence)
    assert found.to_json()["is_verdict"] is False


def test_a_run_that_has_not_ended_makes_it_a_measurement(plant: Plant) -> None:
    found = only(plant(ASKED, FAILS, leave_out=("e7m0-uniform-law-seed44",)))
    assert found.word == "failed"
    assert found.evidence == "1 of the runs without a grade, 2 seeds: a measurement, not a verdict"


@pytest.mark.parametrize(
    ("embedded", "law", "word"),
    [
        ((2.55, 2.60, 2.65), (2.70, 2.71, 2.69), "fails or degrades"),  # .40 +- .124 reaches over .5
        ((2.80, 2.82, 2.84), (2.70, 2.71, 2.45), "fails or degrades"),  # one seed of one text
        ((2.80, 2.82, 2.84), (2.30, 2.31, 2.29), "fails on embedded, degrades on law"),
        ((2.30, 2.31, 2.29), (2.32, 2.31, 2.30), "degrades"),
        ((2.01, 2.02, 2.00), (1.95, 1.96, 1.97), "trains"),
        ((2.01, 2.02, 2.00), (2.05, 2.09, 2.07), "degrades or trains"),
        ((2.01, 2.45, 2.65), (2.01, 2.02, 2.00), "fails or degrades or trains"),
    ],
)
def test_a_word_needs_every_text_and_every_seed(
    embedded: tuple[float, ...], law: tuple[float, ...], word: str
) -> None:
    found = FormatVerdict(
        arm="e7m0-uniform",
        format="E7M0",
        texts=(on_text("embedded", embedded), on_text("law", law)),
        tuned=True,
    )
    assert (found.word, found.lacks) == (word, ())


def on_text(text: str, losses: tuple[float, ...]) -> OnText:
    rhos = tuple(3.0 - loss for loss in losses)
    grades: tuple[Grade, ...] = tuple(
        "failed" if rho < 0.5 else "degraded" if rho < 0.9 else "trained" for rho in rhos
    )
    return OnText(
        text=text,
        planned=3,
        runs=("a", "b", "c"),
        grades=grades,
        lost=False,
        rhos=rhos,
        gap=Paired((), None, ()),
        step_ratio=None,
    )


def ranked(record: SweepRecord) -> list[Ranked]:
    (found,) = rankings(record.planned, record.findings)
    return found


def test_the_order_and_the_chance_of_the_other_on_the_weakest_text(plant: Plant) -> None:
    losses = {
        "E5M2": {"embedded": (2.30, 2.40, 2.50), "law": (2.30, 2.40, 2.50)},
        "E3M4": {"embedded": (2.20, 2.31, 2.39), "law": (2.29, 2.42, 2.47)},
        "E1M6": {"embedded": (2.90, 2.91, 2.92), "law": (2.95, 2.96, 2.97)},
    }
    first, second, third = ranked(plant(replace(ASKED, order=tuple(losses)), losses))
    assert [each.arm for each in (first, second, third)] == ["e3m4-uniform", "e5m2-uniform", "e1m6-uniform"]
    assert (first.ahead, first.other_way_round) == (None, None)
    differences = [0.01, -0.02, 0.03]  # on law; on the embedded text .10, .09, .11
    t = (0.02 / 3) / half(differences, 1.0)
    assert second.other_way_round == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))
    assert second.difference is not None and second.difference.mean == pytest.approx((0.1 + 0.02 / 3) / 2)
    assert third.other_way_round is not None and third.other_way_round < 0.03


def test_one_seed_tells_no_chance(plant: Plant) -> None:
    losses = {name: {"embedded": (loss,), "law": (loss,)} for name, loss in (("E5M2", 2.4), ("E7M0", 2.8))}
    found = ranked(plant(replace(ASKED, order=("E7M0", "E5M2"), seeds=(42,)), losses))
    assert [(each.arm, each.other_way_round) for each in found] == [
        ("e5m2-uniform", None),
        ("e7m0-uniform", None),
    ]


def test_settings_and_rules_are_formats_of_their_own(plant: Plant) -> None:
    asked = replace(ASKED, rules=("adamw", "adamw+stochastic"), tune=None)
    record = plant(asked, FAILS)
    names = [found.arm for found in format_verdicts(record.planned, record.findings)]
    assert names == ["e7m0-uniform-adamw", "e7m0-uniform-adamw+stochastic"]
    assert [each.other_way_round for each in ranked(record)] == [None, 0.5], "the same losses, planted"


def test_a_run_that_stands_in_two_sweeps_counts_once(plant: Plant) -> None:
    record = plant(ASKED, FAILS)
    again = [replace(arm, name=f"other/{arm.name}") for arm in record.planned]
    both = {**record.findings, **{f"other/{name}": found for name, found in record.findings.items()}}
    (found,) = format_verdicts([*record.planned, *again], both)
    assert found.evidence == "2 texts, 3 seeds on each, tuned rates"
