"""The role factorial: which runs it takes, how they are read, and what counts as a confirmation."""

from __future__ import annotations

from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.ablation.roles import FACTORIAL, parts_of, role_letters
from altgrad_cli.sweeps.ablation.stages import attribute, stage_attribution
from altgrad_cli.sweeps.ablation.troubles import layers_at_fault
from altgrad_cli.sweeps.plan import plan_sweep
from tests.sweeps.conftest import LAYERS, Find, WriteLog, spec


def test_the_factorial_has_every_distinct_role_set_once(find: Find) -> None:
    findings = {"e7m0-uniform": find("e7m0-uniform", rho=0.1)}
    arms = plan_sweep(spec(order=("E7M0",), retries=False, attribute=True), findings)
    parts = [arm for arm in arms if arm.kind in ("attribution", "rescue")]
    assert [role_letters(arm) for arm in parts] == [*(s for s in FACTORIAL if s != "AGM"), "AGM"]
    assert parts[-1].config.precision.rounding == "stochastic"
    assert len({repr(arm.config) for arm in arms}) == len(arms)
    assert set(parts_of(arms[3], {arm.config: arm for arm in arms})) == {*FACTORIAL, "stochastic"}
    found = stage_attribution(arms[3], arms, findings)
    assert found is not None and set(found.rho) == {*FACTORIAL, "stochastic"}


@pytest.mark.parametrize(
    ("rho", "stage", "rescue"),
    [
        ({"WA": 1.0, "WAG": 0.98, "AGM": 0.17, "stochastic": 0.8}, "optimizer update", "WAG"),
        ({"W": 0.1, "A": 0.95, "WA": 0.1, "WAG": 0.0, "AGM": 0.0}, "forward precision", "A"),
        ({"W": -1.0, "A": -1.0, "WA": -1.0, "WAG": -1.0, "scaled": 1.0}, "forward precision", "scaled"),
        ({"WA": 0.97, "WAG": 0.2, "AGM": 0.1}, "gradient fidelity", "WA"),
        ({"W": 0.3, "A": 0.35, "WA": 0.3, "WAG": 0.3, "AGM": 0.3}, None, None),
        ({"W": 0.9, "WA": float("nan"), "WAG": float("nan"), "AGM": float("nan")}, "forward precision", "W"),
        ({"WA": 1.0, "WAG": None, "AGM": 0.1}, None, None),
        ({"WA": 1.0, "WAG": 1.0, "AGM": 1.0}, None, None),
        ({}, None, None),
    ],
)
def test_a_stage_is_named_only_with_a_rescue(
    rho: dict[str, Any], stage: str | None, rescue: str | None
) -> None:
    found = attribute("e7m0-uniform", rho)
    assert (found.stage, found.confirmed_by) == (stage, rescue)


UNSCALED_E3M4 = {
    "W": 0.68, "A": 1.01, "G": -0.80, "M": 0.56, "WA": 0.63, "WAG": -0.91, "AM": 0.54, "GM": -0.79,
    "AGM": -0.79, "stochastic": -0.80, "scaled": 1.0,
}  # fmt: skip
"""As measured on the real law, 500 steps."""


def test_a_stage_that_costs_something_without_failing_is_named_beside() -> None:
    found = attribute("e3m4-uniform", UNSCALED_E3M4)
    assert (found.stage, found.failing, found.confirmed_by) == ("gradient fidelity", "WAG", "WA")
    assert [(o.stage, o.failing, o.confirmed_by) for o in found.also] == [("forward precision", "WA", "A")]
    e1m6 = UNSCALED_E3M4 | {"W": 0.87, "A": 1.0, "WA": 0.85, "WAG": -0.84, "scaled": 1.01, "AM": 0.41}
    assert [(o.stage, o.confirmed_by) for o in attribute("e1m6-uniform", e1m6).also] == [
        ("forward precision", "scaled")
    ]
    no_rescue = {key: rho for key, rho in UNSCALED_E3M4.items() if key not in ("A", "W", "scaled")}
    assert attribute("e3m4-uniform", no_rescue).also == ()


def test_a_stage_that_the_full_set_does_not_have_is_not_blamed_for_it() -> None:
    """W and A fail alone, yet leaving out G is what brings the full set back: its weights have a scale."""
    rho = UNSCALED_E3M4 | {"W": 0.3, "WA": 0.25}
    found = attribute("e3m4-uniform", rho)
    assert (found.stage, found.confirmed_by) == ("gradient fidelity", "WA")
    assert [other.stage for other in found.also] == ["forward precision"]


def test_the_trouble_is_read_from_the_smallest_run_that_fails(find: Find) -> None:
    """With the layers that hide behind it: they are rounded, and nothing but zeros arrives there."""
    metrics = {
        "underflow_rate/gradients": [None, 1.0, None, 0.0],
        "overflow_rate/gradients": [0.0, 0.0, 0.0, 0.0],
    }
    findings = {
        "e3m4-uniform": find("e3m4-uniform", rho=-0.8),
        "e3m4-uniform-only-wa": find("e3m4-uniform-only-wa", rho=0.9),
        "e3m4-uniform-only-wag": find("e3m4-uniform-only-wag", rho=-0.9, layers=metrics),
    }
    arms = plan_sweep(spec(order=("E3M4",), retries=False, attribute=True), findings)
    found = stage_attribution(arms[3], arms, findings)
    assert found is not None
    row = found.to_json()
    assert (row["stage"], row["cause"]) == ("gradient fidelity", "underflow of gradients")
    assert row["layers"] == [LAYERS[1]]
    assert row["unreached"] == [LAYERS[0], LAYERS[2]]


def test_an_unscaled_format_may_be_rescued_by_scales(find: Find) -> None:
    base = load_config("base", ["precision.scaling.recipe=none"])
    findings = {"e3m4-uniform": find("e3m4-uniform", rho=-1.0)}
    arms = plan_sweep(spec(base=base, order=("E3M4",), retries=False, attribute=True), findings)
    scaled = next(arm for arm in arms if arm.name == "e3m4-uniform-rescue-scaled")
    assert scaled.config.precision.scaling.recipe == "delayed"
    assert role_letters(scaled) == "WA"


def test_a_planted_rule_takes_part_in_the_factorial(find: Find) -> None:
    rule = "{pattern: blocks.1.mlp.c_fc, format: E1M6, roles: [gradients], scaling: none}"
    base = load_config("base", ["precision.regime=standard", f"precision.rules=[{rule}]"])
    findings = {"bf16-standard": find("bf16-standard", rho=0.1)}
    arms = plan_sweep(spec(base=base, order=("BF16",), retries=False, attribute=True), findings)
    planted = {role_letters(arm): arm.config.precision.rules[0] for arm in arms if arm.kind == "attribution"}
    assert set(planted) == {"W", "A", "G", "WA"}
    assert planted["G"].format == "E1M6"
    assert planted["WA"].format == "fp32"


@pytest.mark.parametrize(
    ("layers", "stage", "named"),
    [
        ({"underflow_rate/gradients": [0.0, 0.9, 0.02, 0.0]}, "gradient fidelity", [LAYERS[1]]),
        (
            {"underflow_rate/gradients": [0.9] * 4, "overflow_rate/weights": [0, 0, 0.3, 0]},
            "forward precision",
            [LAYERS[2]],
        ),
        ({"bit_stall_rate": [0.99, None, 0.999, None]}, "optimizer update", [LAYERS[2], LAYERS[0]]),
        ({}, "optimizer update", []),
    ],
)
def test_the_layers_at_fault_are_those_where_the_stage_was_measured_to_fail(
    write_log: WriteLog, layers: dict[str, Any], stage: Any, named: list[str]
) -> None:
    record = read_run(write_log("a", layers=layers))
    assert [trouble.layer for trouble in layers_at_fault(record, stage)] == named
