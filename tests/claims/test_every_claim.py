"""Every claim can agree, disagree and be left open; and measures what its conditions are about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from altgrad_cli.claims.bench import FP32, FROZEN, SEEDS, Bench, Overrides
from altgrad_cli.claims.block_scales import SPREAD
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.every import CLAIMS, chosen_claims
from altgrad_cli.claims.formats_compared import BF16, HYBRID, HYBRID_TO_INF
from altgrad_cli.claims.judgement import Condition, Measurement, SeedValues, judge
from altgrad_cli.claims.making import Made, make_runs, wanted_runs
from altgrad_cli.claims.measured import MeasuredClaim, measure_claims
from altgrad_cli.claims.rounded_gradients import LOG_NEAREST, LOG_STOCHASTIC, POWERS_OF_TWO, WATCHED
from altgrad_cli.errors import UsageError
from altgrad_cli.sweeps.executors.local import LocalExecutor
from tests.claims.planted import PlantedBench
from tests.small import SETTINGS

EVERY = pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))


def on_side(condition: Condition, *, right: bool, spread: float = 0.0) -> SeedValues:
    """A sample about ``condition``'s bound: one unit to its right or wrong side, more or less."""
    side = 1.0 if (condition.relation == "above") == right else -1.0
    return SeedValues(tuple(condition.bound + side + spread * seed for seed in (-1, 0, 1)))


@EVERY
def test_every_condition_can_fail(claim: Claim) -> None:
    right = [on_side(condition, right=True) for condition in claim.conditions]
    assert judge(claim.conditions, Measurement(tuple(right))).verdict == "agrees"
    for number, condition in enumerate(claim.conditions):
        wrong, wide = right.copy(), right.copy()
        wrong[number] = on_side(condition, right=False)
        wide[number] = on_side(condition, right=True, spread=2.0)
        expected = "cannot tell" if condition.premise else "disagrees"
        assert judge(claim.conditions, Measurement(tuple(wrong))).verdict == expected
        assert judge(claim.conditions, Measurement(tuple(wide))).verdict == "cannot tell"


@EVERY
def test_a_claim_has_its_source(claim: Claim) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{5}|\(20\d\d\)", claim.source)
    assert claim.sentence.endswith(".")
    assert claim.here.endswith(".")


def test_there_are_at_least_ten_and_most_of_them_train() -> None:
    assert len(CLAIMS) >= 10
    assert sum(claim.trains for claim in CLAIMS.values()) >= 10
    assert len(SEEDS) >= 3


def test_claims_are_chosen_in_their_own_order() -> None:
    assert [claim.name for claim in chosen_claims(["log-bias", "accumulate"])] == ["accumulate", "log-bias"]
    assert [claim.name for claim in chosen_claims([])] == list(CLAIMS)
    with pytest.raises(UsageError) as caught:
        chosen_claims(["log-bais"])
    assert caught.value.hint == "did you mean log-bias?"


# --- what each reads of its runs: planted losses, one arm of which is then changed ------------------------


def has(arm: Overrides, *words: str) -> bool:
    return all(any(word in setting for setting in arm) for word in words)


def loss_of(arm: Overrides) -> float:
    """The losses of a world in which every claim about losses holds, but for ``uniform-4-bit``."""
    if has(arm, "regime=frozen"):
        return 2.5
    if has(arm, "regime=uniform"):
        return 2.0 if has(arm, "stochastic") or has(arm, "compensated") else 2.3
    worse = ("format=E1M6", "format=E7M0", "format=E1M2", "format=E3M0@", "format=E4M7")
    if any(has(arm, name) for name in worse):
        return 2.3
    return 2.3 if arm[:3] == LOG_NEAREST and not has(arm, "stochastic_all") else 2.0


def sqnr_of(arm: Overrides) -> dict[str, float]:
    """Below sqrt 3 (4.77 dB) exactly where ``loss_of`` trails; stall as ``PlantedBench`` predicts it."""
    db = 3.0 if loss_of(arm[: -len(WATCHED)]) > 2.05 else 10.0
    db += 1.0 if has(arm, "hadamard") else 0.0
    rates = {"bit_stall_rate": 0.5, "predicted_stall_rate": 0.5, "apparent_stall_rate": 0.99}
    return {"gradient_sqnr": db, **rates}


def lost_of(arm: Overrides) -> float:
    return 0.5 if arm == HYBRID_TO_INF else 0.0


def verdict(name: str, bench: Bench) -> str:
    claim = CLAIMS[name]
    return judge(claim.conditions, claim.measure(bench)).verdict


TRAINED = [name for name, claim in CLAIMS.items() if claim.trains]


@pytest.mark.parametrize("name", TRAINED)
def test_in_a_world_where_it_holds_it_agrees(name: str) -> None:
    expected = "disagrees" if name == "uniform-4-bit" else "agrees"
    assert verdict(name, PlantedBench(loss_of, lost_of, sqnr_of)) == expected


def changed(arm: Overrides, loss: float) -> PlantedBench:
    return PlantedBench(lambda asked: loss if asked == arm else loss_of(asked), lost_of, sqnr_of)


def blurred(spread: Overrides) -> PlantedBench:
    """The gradients of one mixed arm are no better than those of its plain one."""

    def metrics(arm: Overrides) -> dict[str, float]:
        return {"gradient_sqnr": 9.0} if arm == spread + WATCHED else sqnr_of(arm)

    return PlantedBench(loss_of, lost_of, metrics)


@pytest.mark.parametrize(
    ("name", "bench"),
    [
        ("bf16-weights", changed(("precision.regime=uniform", "fp8_format=BF16"), 2.0)),
        ("fp8-weights", changed(("precision.regime=uniform", "fp8_format=E4M3"), 2.0)),
        ("fixed-point", changed(("precision.regime=uniform", "fp8_format=E0M7"), 2.0)),
        ("fp8-pair", changed(HYBRID, 2.3)),
        ("fp8-pair", changed(BF16, 1.9)),
        ("valley-8-bit", changed(("precision.regime=standard", "fp8_format=E1M6"), 1.9)),
        ("best-4-bit", changed(("precision.regime=standard", "fp8_format=E1M2@32:bf16"), 1.9)),
        ("log-gradients", changed(LOG_NEAREST, 1.9)),
        ("log-gradients", changed(LOG_STOCHASTIC, 2.2)),
        ("powers-of-two", changed(POWERS_OF_TWO, 2.2)),
        ("noise-threshold", changed(HYBRID, 2.2)),
        ("saturate", PlantedBench(loss_of, lambda arm: 0, sqnr_of)),
        ("saturate", PlantedBench(loss_of, lambda arm: 0.5, sqnr_of)),
        ("predicted-stall", PlantedBench(loss_of, lost_of, sqnr_of, predicted=0.6)),
        ("invisible-updates", PlantedBench(loss_of, lost_of, lambda arm: {"apparent_stall_rate": 0.9})),
        *(("hadamard", blurred(arm)) for arm in SPREAD.values()),
        ("clamped-gains", PlantedBench(loss_of, lost_of, sqnr_of, gains=[0.4 + n / 50 for n in range(64)])),
        ("exponent-bits", PlantedBench(lambda arm: loss_of(FROZEN if arm == FROZEN else FP32))),
    ],
)
def test_one_changed_arm_turns_the_verdict(name: str, bench: PlantedBench) -> None:
    assert verdict(name, bench) == "disagrees"


def test_where_blocks_do_not_matter_nothing_is_told_about_losses() -> None:
    bench = changed(FROZEN, 2.05)
    rests = [name for name in TRAINED if any(each.premise for each in CLAIMS[name].conditions)]
    assert len(rests) >= 9
    assert {verdict(name, bench) for name in rests} == {"cannot tell"}


def test_every_claim_that_trains_has_a_measurement_that_contradicts_it() -> None:
    (mark,) = test_one_changed_arm_turns_the_verdict.pytestmark  # type: ignore[attr-defined]
    contradicted = {name for name, _ in mark.args[1]}
    assert contradicted == set(TRAINED) - {"uniform-4-bit"}  # that one disagrees where best-4-bit agrees


@pytest.mark.parametrize("name", TRAINED)
def test_a_claim_reads_the_arms_that_it_names_and_no_other(name: str) -> None:
    bench = PlantedBench(loss_of, lost_of, sqnr_of)
    CLAIMS[name].measure(bench)
    assert bench.asked == set(wanted_runs([CLAIMS[name]], bench.seeds))


# --- the same with runs that train ------------------------------------------------------------------------

TINY = (*SETTINGS, "precision.head_format=fp32", "nan_policy=patience")


def short(claims: Sequence[Claim], folder: Path) -> Iterator[Made]:
    """The runs that ``claims`` read, each ended after two steps, however many its arm asks for."""
    end = ("max_steps=2", "runtime.checkpoint_interval=2")
    wanted = [(seed, (*arm, *end)) for seed, arm in wanted_runs(claims, (42,))]
    with closing(LocalExecutor(1)) as executor:
        for (seed, arm), run in make_runs(wanted, folder, executor, TINY):
            yield (seed, arm[: -len(end)]), run


def trained(names: Sequence[str], folder: Path) -> None:
    """One seed of a few steps: what comes out means nothing, but every number is there."""
    claims = [CLAIMS[name] for name in names]
    found = list(measure_claims(claims, short(claims, folder), (42,)))
    assert len(found) == len(claims)
    for measured in found:
        assert isinstance(measured, MeasuredClaim)
        assert all(sample.values for sample in measured.measurement.samples)
        assert measured.measurement.scope.startswith("one seed, one text,")
        assert measured.judgement.verdict == "cannot tell"  # one seed has no interval


def test_short_runs_give_every_number(tmp_path: Path) -> None:
    trained(["bf16-weights", "invisible-updates", "predicted-stall", "saturate", "clamped-gains"], tmp_path)


@pytest.mark.campaign
def test_every_arm_trains(tmp_path: Path) -> None:
    trained(TRAINED, tmp_path)


@pytest.mark.campaign
def test_masters_hold_what_bf16_weights_lose(tmp_path: Path) -> None:
    """The claim that needs least: one run of each, at full length."""
    stored = ("precision.regime=uniform", "fp8_format=BF16")
    stochastic = (*stored, "precision.rounding=stochastic")
    with closing(LocalExecutor(2)) as executor:
        runs = dict(make_runs([(42, stored), (42, stochastic)], tmp_path, executor))
    bench = Bench((42,), {key: run for key, run in runs.items() if not isinstance(run, str)})
    assert bench.losses(stochastic) < bench.losses(stored)
