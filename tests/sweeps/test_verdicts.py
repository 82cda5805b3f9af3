from __future__ import annotations

import math

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.metrics.verdict import loss_scale
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.verdicts import judge_run
from tests.sweeps.conftest import WriteLog

FP32, FROZEN = {1: 2.8, 2: 2.4, 3: 2.0}, {1: 3.0, 2: 2.8, 3: 2.6}


@pytest.fixture
def judged(write_log: WriteLog):  # type: ignore[no-untyped-def]
    def judge(**log: object):  # type: ignore[no-untyped-def]
        fp32 = read_run(write_log("fp32", validation=FP32))
        frozen = read_run(write_log("frozen", validation=FROZEN))
        return judge_run(read_run(write_log("arm", **log)), fp32, frozen)

    return judge


def test_rho_is_taken_at_the_last_common_step_and_says_which(judged) -> None:  # type: ignore[no-untyped-def]
    found = judged(validation={2: 2.6}, losses=[3.0, 2.9])
    assert found.step == 2
    assert found.rho == pytest.approx((2.8 - 2.6) / (2.8 - 2.4))


@pytest.mark.parametrize(
    ("loss", "grade"),
    [(2.0, "trained"), (2.05, "trained"), (2.12, "degraded"), (2.5, "failed"), ("NaN", "failed")],
)
def test_the_grade_follows_rho(judged, loss: object, grade: str) -> None:  # type: ignore[no-untyped-def]
    assert judged(validation={3: loss}).verdict.grade == grade


@pytest.mark.parametrize("subject", ["gpt", "eurovoc"])
def test_the_ends_lie_apart_by_the_measure_of_the_subject(write_log: WriteLog, subject: str) -> None:
    config = load_config("smoke", [f"subject={subject}"])
    enough = loss_scale(subject).ends_apart_from
    for gap, known in ((1.01 * enough, True), (0.99 * enough, False)):
        losses = {"fp32": 0.2, "frozen": 0.2 + gap, "arm": 0.2 + gap / 4}
        fp32, frozen, arm = (
            read_run(write_log(f"{name}{known}", config=config, validation={3: loss}))
            for name, loss in losses.items()
        )
        found = judge_run(arm, fp32, frozen)
        assert found.rho == (pytest.approx(0.75) if known else None)
    assert loss_scale("eurovoc").ends_apart_from < loss_scale("gpt").ends_apart_from == 0.1


def test_without_a_control_the_grade_is_open_and_the_cause_suspected(write_log: WriteLog) -> None:
    run = read_run(write_log("arm", validation={3: 2.6}, metrics={"update_transfer": [0.01] * 3}))
    found = judge_run(run, None, None)
    assert found.verdict.grade is None
    assert found.rho is None
    assert (found.verdict.cause, found.verdict.suspected) == ("stalled", True)
    assert found.verdict.open_because == "no fp32 and frozen control of the same seed and settings"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ({"outcome": "collapsed", "collapse": {"class": "nonfinite", "step": 3}}, "nonfinite"),
        ({"metrics": {"underflow_rate/gradients": [0.4, 0.6, 0.8]}}, "underflowed"),
        ({"metrics": {"zero_share/stored_weights": [0.9, 0.9, 0.9]}}, "underflowed"),
        ({"metrics": {"overflow_rate/activations": [0.3, 0.3, 0.3]}}, "saturated"),
        ({"metrics": {"update_transfer": [0.9, 0.2, 0.1]}}, "stalled"),
        ({"metrics": {"update_transfer": [0.9, 0.5, 0.1]}}, "slowed"),
        ({}, "unexplained"),
    ],
)
def test_the_cause_is_what_was_measured(judged, log: dict[str, object], cause: str) -> None:  # type: ignore[no-untyped-def]
    assert judged(validation={3: 2.55}, **log).verdict.cause == cause


def test_a_run_that_ended_non_finite_before_any_evaluation_has_failed(judged) -> None:  # type: ignore[no-untyped-def]
    found = judged(losses=[3.0], outcome="collapsed", collapse={"class": "nonfinite", "step": 1})
    assert (found.verdict.grade, found.verdict.cause) == ("failed", "nonfinite")
    assert found.rho is None


def test_a_divergence_counts_only_while_it_lasts(judged) -> None:  # type: ignore[no-untyped-def]
    raised = {"step": 2, "name": "divergence", "metric": "divergence", "layer": None, "state": "raised"}
    cleared = raised | {"step": 3, "state": "cleared"}
    assert judged(validation={3: 2.55}, alerts=[raised]).verdict.cause == "diverged"
    assert judged(validation={3: 2.55}, alerts=[raised, cleared]).verdict.cause == "unexplained"


def test_a_control_is_the_scale_and_not_judged_on_it(write_log: WriteLog) -> None:
    fp32 = read_run(write_log("fp32", validation=FP32))
    frozen = read_run(write_log("frozen", validation=FROZEN))
    found = judge_run(frozen, fp32, frozen)
    assert found.rho == 0.0
    assert found.verdict.grade is None


def test_a_non_finite_control_gives_no_rho(write_log: WriteLog) -> None:
    fp32 = read_run(write_log("fp32", validation={3: "NaN"}))
    frozen = read_run(write_log("frozen", validation=FROZEN))
    found = judge_run(read_run(write_log("arm", validation={3: 2.0})), fp32, frozen)
    assert found.rho is None or math.isnan(found.rho)
    assert found.verdict.grade is None
    assert found.verdict.open_because == "a control is not finite at step 3"


@pytest.mark.parametrize(
    ("frozen_loss", "reason"),
    [
        (2.022, "fp32 and frozen are 0.022 nats apart, less than 0.1 at step 3"),
        (1.9, "fp32 and frozen are -0.100 nats apart, less than 0.1 at step 3"),
        (2.11, None),
    ],
)
def test_no_verdict_where_the_ends_of_rho_are_no_further_apart_than_seeds(
    write_log: WriteLog, frozen_loss: float, reason: str | None
) -> None:
    """The last evaluation decides, whatever an earlier one had to say."""
    fp32 = read_run(write_log("fp32", validation={2: 2.0, 3: 2.0}))
    frozen = read_run(write_log("frozen", validation={2: 3.0, 3: frozen_loss}))
    found = judge_run(read_run(write_log("arm", validation={2: 2.1, 3: 2.04})), fp32, frozen)
    assert found.verdict.open_because == reason
    assert (found.verdict.grade is None) == (found.rho is None) == (reason is not None)


STALL = {"class": "stall_collapse", "step": 2, "detected": 3}


@pytest.mark.parametrize(
    ("validation", "grade", "confirmed"),
    [
        ({1: 2.9, 3: 2.03}, "trained", False),
        ({1: 2.9, 3: 2.2}, "degraded", False),
        ({1: 2.2, 3: 2.2}, "degraded", True),
        ({1: 2.9, 3: 2.5}, "failed", True),
    ],
)
def test_a_stall_collapse_is_confirmed_by_the_end_of_the_run_or_is_a_warning(
    judged,  # type: ignore[no-untyped-def]
    validation: dict[int, float],
    grade: str,
    confirmed: bool,
) -> None:
    found = judged(validation=validation, outcome="collapsed", collapse=STALL)
    assert found.verdict.grade == grade
    assert found.outcome == ("collapsed" if confirmed else "completed")
    assert (found.collapse is not None) == (found.warning is None) == confirmed
    if not confirmed:
        words = "stall collapse from step 2, detected at step 3, not confirmed by the end of the run"
        assert found.warning == words


def test_without_controls_a_collapse_stands_as_it_was_detected(write_log: WriteLog) -> None:
    run = read_run(write_log("arm", validation={1: 2.9, 3: 2.03}, outcome="collapsed", collapse=STALL))
    assert judge_run(run, None, None).outcome == "collapsed"
