"""The plan of a sweep that tunes: trials first, widened as they come in, then the seeds at the best rates."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.plan import arms_to_come, plan_sweep
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.sweeps.tuning import rates_tried
from altgrad_cli.sweeps.verdicts import JudgedRun, tuning_loss, unjudged
from tests.sweeps.conftest import WriteLog, spec

Find = Callable[[Arm, float], JudgedRun]
BEST = {"fp32": 6e-4, "frozen": 6e-5, "bf16": 1e-3, "e5m2-uniform": 5e-4, "e7m0-uniform": 1e9}
"""Where the loss of each arm is lowest: inside the grid, below it, inside twice, and above all."""


DIVERGED = {"step": 2, "name": "divergence", "metric": "divergence", "layer": None, "state": "raised"}


@pytest.fixture
def found(write_log: WriteLog) -> Find:
    """A run that ended with a validation loss."""

    def make(arm: Arm, loss: float) -> JudgedRun:
        return unjudged(read_run(write_log(arm.name, config=arm.config, validation={3: loss})))

    return make


def loss_of(arm: Arm, best: Mapping[str, float]) -> float:
    """How far the rate lies from the best one of the arm, in octaves; never NaN."""
    name = next(name for name in best if name in arm.name)
    ratio = arm.config.learning_rate / best[name]
    return max(ratio, 1 / ratio)


def carried_out(asked: SweepSpec, found: Find, seed: int = 0) -> tuple[tuple[Arm, ...], dict[str, JudgedRun]]:
    """The last plan and all results, runs ending in an order that ``seed`` decides."""
    findings: dict[str, JudgedRun] = {}
    order = random.Random(seed)
    seen: dict[str, Arm] = {}
    while True:
        plan = plan_sweep(asked, findings)
        names = [arm.name for arm in plan]
        assert len(set(names)) == len(names)
        for arm in plan:  # no result changes what an arm is, only what it is held against
            assert seen.setdefault(arm.name, arm).config == arm.config
        assert seen.keys() == set(names)
        due = [arm for arm in plan if arm.name not in findings]
        if not due:
            return plan, findings
        arm = order.choice(due)
        findings[arm.name] = found(arm, loss_of(arm, BEST))


ASKED = {"order": ("E5M2", "E7M0"), "seeds": (42, 43), "tune": (), "retries": False}


def test_the_first_plan_is_the_grid_of_every_arm_on_the_half_that_chooses() -> None:
    arms = plan_sweep(spec(**ASKED), {})
    assert [arm.name for arm in arms[:6]] == [
        f"tune-fp32-{rate}-seed{seed}" for rate in ("1.9e-4", "6e-4", "1.9e-3") for seed in (42, 43)
    ]
    assert len(arms) == 5 * 3 * 2
    for arm in arms:
        assert (arm.kind, arm.config.data.evaluate_on) == ("tuning", "tuning")
        assert not arm.controls
    final, more = arms_to_come(spec(**ASKED))
    assert (len(final), len(more)) == (5 * 2, 5 * 3 * 2)
    assert [arm.name for arm in final] == [
        arm.name for arm in plan_sweep(spec(**(ASKED | {"tune": None})), {})
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_end_is_the_same_in_whatever_order_the_runs_end(seed: int, found: Find) -> None:
    plan, findings = carried_out(spec(**ASKED), found, seed)
    first, _ = carried_out(spec(**ASKED), found, 99)
    assert plan == first
    final = {arm.name: arm for arm in plan if arm.kind != "tuning"}
    rates = {name: arm.config.learning_rate for name, arm in final.items()}
    for seed_of in (42, 43):
        assert {name: rates[f"{name}-seed{seed_of}"] for name in BEST} == {
            "fp32": 6e-4,
            "frozen": 6e-5,
            "bf16": 6e-4,
            "e5m2-uniform": 6e-4,
            "e7m0-uniform": 6e-2,
        }
    for arm in final.values():
        assert arm.config.data.evaluate_on == "final"
        ends = (f"{end}-seed{arm.config.seed}" for end in ("fp32", "frozen", "bf16"))
        assert list((arm.controls or {}).values()) == list(ends)
    trials = [arm for arm in plan if arm.kind == "tuning"]
    assert len(trials) == 2 * (5 * 3 + 2 + 3), "frozen is widened to where it turns, E7M0 as far as may be"
    tried = {each.arm: each for each in rates_tried(plan, findings)}
    assert (tried["e7m0-uniform"].widened, tried["e7m0-uniform"].found.edge) == (3, "highest")
    said = "best at 6e-2 after the grid was widened by 3, the highest tried: a better one may lie beyond"
    assert str(tried["e7m0-uniform"]) == f"e7m0-uniform: {said}"
    assert str(tried["fp32"]) == "fp32: best at 6e-4"


def test_the_best_rate_is_that_of_all_seeds_together(found: Find) -> None:
    losses = {(6e-4, 42): 2.2, (6e-4, 43): 2.2, (6e-3, 42): 2.6, (6e-3, 43): 2.6}
    losses |= {(2e-3, 42): 2.0, (2e-3, 43): 2.5}  # the best of seed 42 alone, and not of both
    asked = spec(order=("E7M0",), seeds=(42, 43), tune=(6e-4, 2e-3, 6e-3), retries=False)
    findings: dict[str, JudgedRun] = {}
    for arm in plan_sweep(asked, {}):
        findings[arm.name] = found(arm, losses[arm.config.learning_rate, arm.config.seed])
    for arm in plan_sweep(asked, findings):
        if arm.kind == "tuning" and arm.name not in findings:  # 6e-4 is at the edge
            findings[arm.name] = found(arm, 3.0)
    final = [arm for arm in plan_sweep(asked, findings) if arm.kind != "tuning"]
    assert len(final) == 4 * 2
    assert {arm.config.learning_rate for arm in final} == {6e-4}
    one_lost = findings | {"tune-fp32-6e-4-seed43": found(final[0], float("inf"))}
    rates = {
        arm.name: arm.config.learning_rate for arm in plan_sweep(asked, one_lost) if arm.kind != "tuning"
    }
    assert rates["fp32-seed42"] == rates["fp32-seed43"] == 2e-3
    assert rates["frozen-seed42"] == 6e-4


def test_a_rate_that_was_tried_for_one_rule_is_not_tried_for_another_that_is_the_same() -> None:
    asked = spec(order=("E7M0",), rules=("adamw", "adamw+stochastic", "lion"), tune=(1e-3, 2e-3))
    names = [arm.name for arm in plan_sweep(asked, {})]
    assert len(names) == 2 * (3 + 2 + 3)
    assert "tune-e7m0-uniform-adamw+stochastic-1e-3" in names
    rates = {arm.name: arm.config.learning_rate for arm in plan_sweep(spec(rules=("lion",), tune=()), {})}
    assert rates["tune-fp32-lion-6.3e-5"] == 6.3e-5


def test_an_arm_that_diverges_at_every_rate_has_no_final_run(found: Find) -> None:
    asked = spec(order=("E7M0",), tune=(1e-3,), retries=False)
    findings: dict[str, JudgedRun] = {}
    while due := [arm for arm in plan_sweep(asked, findings) if arm.name not in findings]:
        lost = "e7m0" in due[0].name
        findings[due[0].name] = found(due[0], float("inf") if lost else 2.0)
    plan = plan_sweep(asked, findings)
    assert [arm.name for arm in plan if arm.kind != "tuning"] == ["fp32", "frozen", "bf16"]
    said = next(each for each in rates_tried(plan, findings) if each.arm == "e7m0-uniform")
    assert str(said) == "e7m0-uniform: every learning rate tried diverged, so there is no final run"
    assert len(said.trials) == 4, "one and three below it"


@pytest.mark.parametrize(
    ("log", "loss"),
    [
        ({}, 2.5),
        ({"validation": {}}, float("inf")),
        ({"validation": {3: "NaN"}}, float("inf")),
        ({"collapse": {"class": "nonfinite", "step": 2}, "outcome": "collapsed"}, float("inf")),
        ({"alerts": [DIVERGED]}, float("inf")),
        ({"collapse": {"class": "stall_collapse", "step": 2, "detected": 3}, "outcome": "collapsed"}, 2.5),
    ],
    ids=["held", "not evaluated", "nan", "nonfinite", "diverged", "stalled"],
)
def test_what_counts_as_infinite(log: dict[str, Any], loss: float, write_log: WriteLog) -> None:
    assert tuning_loss(read_run(write_log("run", **({"validation": {3: 2.5}} | log)))) == loss
