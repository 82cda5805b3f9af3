"""Every quantity that a report can print, against a plain loop over the lines of the log."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.precision import LayerRule, ScalingConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.notation import MISSING
from altgrad_cli.reporting.evidence.scope import Scope, gather, judged
from altgrad_cli.reporting.pages.comparison.attribution_section import stage_sentence
from tests.reporting.recorded import LAYERS, config, raw_steps, record, record_sweep


def plain(run_dir: Path, metric: str, first: int, last: int, layer: str | None = None) -> list[float]:
    """The measured values of a metric, by a loop over the parsed lines."""
    values = []
    for line in raw_steps(run_dir):
        if first <= line["step"] <= last:
            if layer is None:
                value = line["metrics"].get(metric)
            else:
                value = (line["layers"].get(metric) or [None] * len(LAYERS))[LAYERS.index(layer)]
            if value is not None:
                values.append(float(value))
    return values


REDUCTIONS = {
    "mean": lambda v: sum(v) / len(v),
    "median": statistics.median,
    "max": max,
    "min": min,
    "sum": sum,
    "last": lambda v: v[-1],
    "at": lambda v: v[-1],
}


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
@pytest.mark.parametrize("metric", ["loss", "update_transfer", "overflow_rate/gradients"])
@pytest.mark.parametrize(("first", "last"), [(1, 120), (31, 80), (7, 7)])
def test_reductions_of_run_metrics(
    scope: Scope, sweep: Path, name: str, metric: str, first: int, last: int
) -> None:
    expected = REDUCTIONS[name](plain(sweep / "e7m0-uniform", metric, first, last))
    got = scope.evidence.value(f"e7m0-uniform: {name}({metric})@{first}-{last}")
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layer", LAYERS[:-1])
@pytest.mark.parametrize("metric", ["bit_stall_rate", "gradient_norm", "persistent_stall_rate"])
def test_reductions_of_layer_metrics(scope: Scope, sweep: Path, layer: str, metric: str) -> None:
    expected = plain(sweep / "e7m0-uniform", metric, 31, 80, layer)
    assert expected
    got = scope.evidence.value(f"e7m0-uniform: mean({metric})[{layer}]@31-80")
    assert got == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_what_was_not_measured_is_none_and_a_dash(scope: Scope) -> None:
    for source in (
        "e7m0-uniform: mean(bit_stall_rate)[lm_head]@31-80",  # null for the head
        "fp32: mean(bit_stall_rate)@31-80",  # no stored weights
        "e7m0-uniform: at(loss)@5000",  # beyond the end
        "e7m0-uniform: mean(no_such_metric)",
        "e7m0-uniform: mean(bit_stall_rate)[no.such.layer]",
        "fp32: collapse.step",
        "e7m0-uniform: config.no_such_key",
    ):
        assert scope.evidence.value(source) is None, source
        assert scope.evidence.text(source) == MISSING


def test_nan_is_never_averaged_away(scope: Scope) -> None:
    assert math.isnan(scope.evidence.value("e3m4-uniform: mean(loss)@60-70"))
    assert math.isnan(scope.evidence.value("e3m4-uniform: mean(gradient_cosine)[blocks.0.attn.c_attn]@60-70"))
    assert scope.evidence.text("e3m4-uniform: at(loss)@70") == "NaN"
    assert math.isfinite(scope.evidence.value("e3m4-uniform: mean(loss)@60-68"))


def test_recovered_fraction_is_its_closed_form(scope: Scope, sweep: Path) -> None:
    def validation(run: str, step: int) -> float:
        lines = [json.loads(line) for line in (sweep / run / "events.jsonl").read_text().splitlines()]
        return next(x["validation_loss"] for x in lines if x["event"] == "evaluated" and x["step"] == step)

    for run in ("e7m0-uniform", "e5m2-uniform", "fp32", "frozen"):
        for step in (60, 120):
            frozen, fp32 = validation("frozen", step), validation("fp32", step)
            expected = (frozen - validation(run, step)) / (frozen - fp32)
            assert scope.evidence.value(f"{run}: recovered_fraction@{step}") == pytest.approx(expected)
    assert scope.evidence.value("e3m4-uniform: recovered_fraction") == scope.evidence.value(
        "e3m4-uniform: recovered_fraction@60"
    ), "a run that ended early is judged at its own last evaluation"


def test_controls_are_those_of_the_same_seed_and_settings(tmp_path: Path) -> None:
    scope = gather([record_sweep(tmp_path / "sweep", seeds=(42, 43))])
    for seed in (42, 43):
        run = scope.evidence.run(f"e7m0-uniform-seed{seed}")
        assert scope.evidence.control(run, "fp32") is scope.evidence.run(f"fp32-seed{seed}")
        assert scope.evidence.value(f"{run.name}: controls") == f"fp32-seed{seed}, frozen-seed{seed}"
    record(
        tmp_path / "other", config("uniform", "E7M0", learning_rate=1e-3), floor=2.0, stall=0.9, transfer=0.5
    )
    other = gather([tmp_path / "sweep", tmp_path / "other"])
    assert other.evidence.control(other.evidence.run("other"), "fp32") is None, "another learning rate"
    assert other.evidence.judged(other.evidence.run("other")).verdict.grade is None
    reason = "no fp32 and frozen control of the same seed and settings"
    assert other.evidence.value("other: verdict") == f"no verdict: {reason}"
    assert other.evidence.value("other: recovered_fraction@120") is None


def test_several_runs_become_one_number(tmp_path: Path) -> None:
    evidence = gather([record_sweep(tmp_path / "sweep", seeds=(42, 43, 44))]).evidence
    names = [f"e5m2-uniform-seed{seed}" for seed in (42, 43, 44)]
    values = [evidence.value(f"{name}: recovered_fraction@120") for name in names]
    together = ",".join(names)
    assert evidence.value(f"{together}: average recovered_fraction@120") == pytest.approx(
        statistics.fmean(values)
    )
    assert evidence.value(f"{together}: deviation recovered_fraction@120") == pytest.approx(
        statistics.stdev(values)
    )
    assert evidence.value(f"{together}: lowest recovered_fraction@120") == min(values)
    assert evidence.value(f"{together}: highest recovered_fraction@120") == max(values)
    assert evidence.value(f"{together}: number") == 3
    assert evidence.value(f"{together}: leader recovered_fraction@120") == names[values.index(max(values))]
    pair = f"{names[0]},{names[1]}: difference recovered_fraction@120"
    assert evidence.value(pair) == pytest.approx(values[0] - values[1])
    assert evidence.value(f"{names[0]},fp32-seed42: average mean(bit_stall_rate)@1-9") is None


def test_layers_across(scope: Scope) -> None:
    # By construction each layer's bit-stall is 0.995 + 0.002 * index, at most 1; the head has none.
    value = scope.evidence.value
    assert value("e7m0-uniform: worst_layer(bit_stall_rate)") in (LAYERS[3], LAYERS[2])
    assert value("e7m0-uniform: layers_at_least(zero_update_fraction>=0.998)@71-120") == 2
    assert value("e7m0-uniform: layers_at_least(zero_update_fraction>=0.99)@71-120") == 4
    assert value("e7m0-uniform: measured_layers(zero_update_fraction)@71-120") == 4
    assert value("fp32: layers_at_least(zero_update_fraction>=0.99)") is None
    assert value("e7m0-uniform: type_mean(update_transfer)[mlp.c_fc]") == pytest.approx(0.008)


def test_facts(scope: Scope) -> None:
    value = scope.evidence.value
    assert value("e7m0-uniform: collapse.class") == "stall_collapse"
    assert value("e7m0-uniform: verdict") == "failed"
    assert value("e7m0-uniform: cause") == "stalled"
    assert value("e3m4-uniform: dropped_steps") == 2
    assert value("e3m4-uniform: first_dropped_step") == 69
    assert value("e7m0-uniform: config.optimizer.betas") == [0.9, 0.95]
    assert value("e7m0-uniform-intervened: format") == "E7M0", "a shifted run keeps its first format"
    assert value("e7m0-uniform-intervened: formats") == "E7M0, E5M2 from step 40"
    assert value("e7m0-uniform-intervened: interventions(emergency_shift)") == 1
    assert value("fp32: verdict") is None, "an end of the scale"
    assert value("e7m0-uniform: roles") == "WAGM"
    assert value("rule: trained.from") == 0.9


def test_a_quantity_or_run_that_does_not_exist_is_an_error(scope: Scope) -> None:
    for source in ("e7m0-uniform: no_such_thing", "nobody: verdict", "rule: none_such"):
        with pytest.raises(UsageError) as caught:
            scope.evidence.value(source)
        assert caught.value.allowed


def test_the_stage_is_named_only_with_its_rescue(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path / "sweep")
    scope = gather([sweep])
    log = scope.evidence.run("e7m0-uniform")
    assert {k: run.name for k, run in scope.evidence.parts(log).items()} == {
        "AGM": "e7m0-uniform",
        "stochastic": "e7m0-uniform-rescue-stochastic",
        "WA": "e7m0-uniform-only-wa",
        "WAG": "e7m0-uniform-only-wag",
    }
    found = scope.evidence.attribution(log)
    assert found is not None
    assert found.stage == "optimizer update"
    left = {
        name: run for name, run in scope.evidence.runs.items() if "rescue" not in name and "wag" not in name
    }
    found = judged(left, {name: scope.evidence.arms[name] for name in left}).attribution(log)
    assert found is None or found.stage is None, "no rescue, no stage"


def test_a_forward_failure_is_confirmed_by_scales(tmp_path: Path) -> None:
    def arm(name: str, floor: float, recipe: str = "none", **precision: Any) -> None:
        scaling = ScalingConfig(recipe=recipe)  # type: ignore[arg-type]
        record(tmp_path / name, config("uniform", "E3M4", scaling=scaling, **precision), floor=floor)

    record(tmp_path / "fp32", config("fp32", "E5M2"), floor=2.0)
    record(tmp_path / "frozen", config("frozen", "E5M2"), floor=3.0)
    arm("unscaled", 3.4)
    arm("only-wa", 3.3, roles=("weights", "activations"))
    arm("only-a", 3.2, roles=("activations",))
    arm("scaled", 2.05, recipe="delayed", roles=("weights", "activations"))
    scope = gather(
        [tmp_path / name for name in ("fp32", "frozen", "unscaled", "only-wa", "only-a", "scaled")]
    )
    found = scope.evidence.attribution(scope.evidence.run("unscaled"))
    assert found is not None
    unscaled = scope.evidence.run("unscaled")
    assert {key: run.name for key, run in scope.evidence.parts(unscaled).items()} == {
        "AGM": "unscaled",
        "WA": "only-wa",
        "A": "only-a",
        "scaled": "scaled",
    }
    assert found.stage == "forward precision"
    assert found.confirmed_by == "scaled"
    assert "by scales that follow the tensors" in stage_sentence(scope, found)


def test_a_stage_that_costs_something_is_told_with_its_own_runs(tmp_path: Path) -> None:
    def arm(name: str, floor: float, recipe: str = "none", **precision: Any) -> None:
        scaling = ScalingConfig(recipe=recipe)  # type: ignore[arg-type]
        regime = precision.pop("regime", "uniform")
        record(tmp_path / name, config(regime, "E3M4", scaling=scaling, **precision), floor=floor)

    record(tmp_path / "fp32", config("fp32", "E5M2"), floor=2.0)
    record(tmp_path / "frozen", config("frozen", "E5M2"), floor=3.0)
    arm("unscaled", 3.4)
    arm("wa", 2.3, roles=("weights", "activations"))
    arm("wag", 3.5, regime="standard")
    arm("scaled", 2.0, recipe="delayed", roles=("weights", "activations"))
    scope = gather([tmp_path / name for name in ("fp32", "frozen", "unscaled", "wa", "wag", "scaled")])
    found = scope.evidence.attribution(scope.evidence.run("unscaled"))
    assert found is not None
    text = re.sub(r"</?span[^>]*>", "", stage_sentence(scope, found))
    assert "the **gradient fidelity** fails" in text
    assert "The forward precision costs something too: rho is 0.7" in text
    assert "with that undone (`scaled`)" in text


def test_a_regime_of_a_control_with_a_rule_is_a_run_under_study(tmp_path: Path) -> None:
    rule = LayerRule(pattern="*.mlp.c_fc", format="E1M6", roles=("gradients",), scaling="none")
    record(tmp_path / "planted", config("fp32", "E5M2", rules=(rule,)), floor=2.9)
    record(tmp_path / "fp32", config("fp32", "E5M2"), floor=2.0)
    record(tmp_path / "frozen", config("frozen", "E5M2"), floor=3.0)
    scope = gather([tmp_path / name for name in ("planted", "fp32", "frozen")])
    planted = scope.evidence.run("planted")
    assert scope.subjects == [planted]
    assert scope.evidence.value("planted: controls") == "fp32, frozen"
    assert scope.evidence.value("planted: recovered_fraction") == pytest.approx(0.1, abs=0.01)
    assert scope.evidence.value("planted: format_studied") == "E1M6"
    assert scope.evidence.value("planted: rules") == "*.mlp.c_fc in E1M6 (gradients)"
