"""The plan as a pure function: what is asked, what is found, what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.errors import UsageError
from altgrad_cli.subjects.gpt.layer_names import layer_kinds
from altgrad_cli.surgery.precision_plan import LayerKind, plan_precision
from altgrad_cli.sweeps.ablation.restoration import restored
from altgrad_cli.sweeps.ablation.troubles import rank_layers
from altgrad_cli.sweeps.arms import text_words
from altgrad_cli.sweeps.plan import equivalences, plan_sweep
from altgrad_cli.sweeps.specification import (
    SweepSpec,
    parse_axes,
    parse_order,
    parse_rates,
    parse_rules,
    parse_seeds,
)
from altgrad_cli.sweeps.verdicts import JudgedRun
from tests.sweeps.conftest import LAYERS, Find, spec


def names(spec: SweepSpec, findings: dict[str, JudgedRun] | None = None) -> list[str]:
    return [arm.name for arm in plan_sweep(spec, findings or {})]


def test_controls_first_then_the_formats_in_the_order_given() -> None:
    assert names(spec(retries=False)) == [
        *("fp32", "frozen", "bf16"),
        *("e5m2-uniform", "e3m4-uniform", "e1m6-uniform", "e0m7-uniform", "e7m0-uniform"),
    ]
    assert names(spec(retries=False, order=("E7M0", "E5M2")))[3:] == ["e7m0-uniform", "e5m2-uniform"]


def test_all_arms_share_everything_but_precision() -> None:
    arms = plan_sweep(spec(retries=False), {})
    for arm in arms:
        config = arm.config
        assert (config.seed, config.data, config.model, config.optimizer, config.max_steps) == (
            (b := load_config("base")).seed,
            b.data,
            b.model,
            b.optimizer,
            b.max_steps,
        )
    regimes = [arm.config.precision.regime for arm in arms]
    assert regimes == ["fp32", "frozen", "bf16", *["uniform"] * 5]


def test_interventions_never_spoil_the_controls() -> None:
    base = load_config("base", ["enable_emergency_shift=true", "inject=nan@5"])
    controls = plan_sweep(spec(base=base, retries=False), {})[:3]
    assert [arm.name for arm in controls] == ["fp32", "frozen", "bf16"]
    for arm in controls:
        assert not arm.config.enable_emergency_shift
        assert arm.config.inject == ()


def test_e1m6_always_gets_its_postln_arm_and_e0m7_only_when_it_fails(find: Find) -> None:
    asked = spec(order=("E1M6", "E0M7"))
    assert names(asked)[-1] == "e1m6-postln"
    found = names(asked, {"e0m7-uniform": find("e0m7-uniform", rho=0.1)})
    assert "e0m7-postln" in found
    found = names(asked, {"e0m7-uniform": find("e0m7-uniform", rho=0.95)})
    assert "e0m7-postln" not in found
    postln = next(arm for arm in plan_sweep(asked, {}) if arm.name == "e1m6-postln")
    plan = plan_precision(postln.config.precision, "E1M6", layer_kinds(LAYERS))
    rounded = {layer.name: [role for role, _ in layer.formats] for layer in plan.layers}
    assert rounded["blocks.0.attn.c_attn"] == ["activations"]
    assert rounded["blocks.0.attn.c_proj"] == []
    assert postln.retry_of == "e1m6-uniform"


def test_a_failing_format_is_retried_with_bf16_where_the_trouble_was_measured(find: Find) -> None:
    finding = find(
        "e7m0-uniform",
        rho=0.1,
        metrics={"update_transfer": [0.01] * 3},
        layers={"bit_stall_rate": [0.2, 0.999, 0.3, None], "overflow_rate/weights": [0.9, 0.0, 0.0, 0.0]},
    )
    assert finding.verdict.cause == "stalled"
    mixed = next(
        arm
        for arm in plan_sweep(spec(order=("E7M0",)), {"e7m0-uniform": finding})
        if arm.name == "e7m0-mixed"
    )
    assert [(rule.pattern, rule.format) for rule in mixed.config.precision.rules] == [
        ("blocks.0.attn.c_proj", "BF16")
    ]
    assert "blocks.0.attn.c_proj (bit_stall_rate 0.999)" in mixed.reason
    plan = plan_precision(mixed.config.precision, "E7M0", layer_kinds(LAYERS))
    assert plan.layers[1].format_of("stored_weights") is None
    assert plan.layers[0].format_of("stored_weights") is not None


def test_at_most_half_of_the_layers_are_taken_out_the_worst_first(find: Find) -> None:
    finding = find("e7m0-uniform", rho=0.1, layers={"bit_stall_rate": [0.9, 0.99, 0.8, 0.7]})
    mixed = next(
        arm
        for arm in plan_sweep(spec(order=("E7M0",)), {"e7m0-uniform": finding})
        if arm.name == "e7m0-mixed"
    )
    chosen = [rule.pattern for rule in mixed.config.precision.rules]
    assert chosen == ["blocks.0.attn.c_proj", "blocks.0.attn.c_attn"]
    assert "2 more layers show the same" in mixed.reason


def test_the_head_is_kept_in_bf16_when_the_evidence_says_so(find: Find) -> None:
    finding = find(
        "e7m0-uniform",
        rho=0.1,
        metrics={"overflow_rate/activations": [0.5] * 3},
        layers={"overflow_rate/activations": [0.0, 0.0, 0.0, 0.6]},
    )
    assert [trouble.layer for trouble in rank_layers(finding.record, "saturated")] == ["lm_head"]


def test_a_format_that_trains_is_not_retried(find: Find) -> None:
    found = names(spec(order=("E3M4",)), {"e3m4-uniform": find("e3m4-uniform", rho=0.95)})
    assert found == ["fp32", "frozen", "bf16", "e3m4-uniform"]


def test_interventions_are_an_arm_of_their_own_and_only_when_asked(find: Find) -> None:
    findings = {"e7m0-uniform": find("e7m0-uniform", rho=0.1)}
    assert "e7m0-intervened" not in names(spec(order=("E7M0",)), findings)
    arms = plan_sweep(spec(order=("E7M0",), with_interventions=True), findings)
    intervened = arms[-1]
    assert (intervened.name, intervened.kind) == ("e7m0-intervened", "intervened")
    assert intervened.config.enable_emergency_shift
    assert intervened.config.enable_partition_clipping
    amax = load_config("base", ["precision.scaling.recipe=amax"])
    shift_only = plan_sweep(spec(base=amax, order=("E7M0",), with_interventions=True), findings)[-1]
    assert not shift_only.config.enable_partition_clipping
    assert "range clipping is left out" in shift_only.reason


RULE = "{pattern: blocks.0.mlp.c_fc, format: E7M0, roles: [stored_weights]}"


def test_rules_on_a_regime_that_rounds_nothing_are_one_arm_whatever_the_order(find: Find) -> None:
    base = load_config("base", ["precision.regime=fp32", f"precision.rules=[{RULE}]"])
    arms = plan_sweep(spec(base=base, retries=False), {})
    assert [arm.name for arm in arms] == ["fp32", "frozen", "bf16", "e7m0-fp32"]
    assert arms[-1].format == "E7M0"
    assert equivalences(spec(base=base)) == ()


def test_a_rule_in_trouble_calls_for_its_rescue_though_the_run_trains(find: Find) -> None:
    stalled = {"update_transfer": [None, None, 0.01, None], "bit_stall_rate": [None, None, 0.99, None]}
    base = load_config("base", ["precision.regime=standard", f"precision.rules=[{RULE}]"])
    asked = spec(base=base, order=("E3M4",), retries=False, attribute=True)
    healthy = find("e3m4-standard", rho=1.0)
    assert names(asked, {"e3m4-standard": healthy}) == names(asked)
    findings = {"e3m4-standard": find("e3m4-standard", rho=1.0, layers=stalled)}
    rescue = plan_sweep(asked, findings)[-1]
    assert (rescue.name, rescue.kind) == ("e3m4-standard-restore-stored-weights", "rescue")
    assert "update_transfer 0.01" in rescue.reason
    plan = plan_precision(rescue.config.precision, "E3M4", layer_kinds(LAYERS))
    rounded = {layer.name: [role for role, _ in layer.formats] for layer in plan.layers}
    assert rounded["blocks.0.mlp.c_fc"] == []
    assert rounded["blocks.0.attn.c_attn"] == ["weights", "activations", "gradients"]
    unasked = replace(asked, attribute=False)
    assert len(plan_sweep(unasked, findings)) == len(plan_sweep(unasked, {}))


def test_the_rescue_of_stored_weights_rounds_the_operand_that_the_grid_was() -> None:
    config = load_config("base", ["precision.regime=uniform", "fp8_format=E7M0"])
    rescued = restored(config, "stored_weights", LAYERS[:2], layer_kinds(LAYERS))
    plan = plan_precision(rescued.precision, "E7M0", layer_kinds(LAYERS))
    roles = [[role for role, _ in layer.formats] for layer in plan.layers]
    assert roles[0] == roles[1] == ["weights", "activations", "gradients"]
    assert roles[2] == ["activations", "gradients", "stored_weights"]


def test_gradients_of_another_format_keep_it_where_a_role_is_restored() -> None:
    rule = "precision.rules=[{pattern: blocks.*, format: E4M3, gradient_format: E5M2}]"
    config = load_config("base", ["precision.regime=standard", rule])
    rescued = restored(config, "weights", LAYERS[:1], layer_kinds(LAYERS))
    plan = plan_precision(rescued.precision, "E4M3", layer_kinds(LAYERS))
    formats = [{role: fmt.name for role, fmt in layer.formats} for layer in plan.layers]
    pair = {"activations": "E4M3", "gradients": "E5M2"}
    assert formats[:2] == [pair, {"weights": "E4M3", **pair}]
    alone = restored(rescued, "activations", LAYERS[:1], layer_kinds(LAYERS))
    assert [
        fmt.name for _, fmt in plan_precision(alone.precision, "E4M3", layer_kinds(LAYERS)).layers[0].formats
    ] == ["E5M2"]


def test_activations_of_another_format_keep_it_where_a_role_is_restored() -> None:
    config, kinds = load_config("fp8_tiles"), layer_kinds(LAYERS)
    for role, left in (("gradients", ["128x128", "128"]), ("weights", ["128", "128"])):
        plan = plan_precision(restored(config, role, LAYERS[:1], kinds).precision, config.fp8_format, kinds)
        assert [fmt.block.shape for _, fmt in plan.layers[0].formats] == left
        assert [fmt.block.shape for _, fmt in plan.layers[1].formats] == ["128x128", "128", "128"]


def test_an_order_beside_tiles_rounds_everything_in_the_format_asked_for() -> None:
    asked = spec(base=load_config("fp8_tiles"), order=("E4M3@128x128:float32", "E5M2"), retries=False)
    kinds = layer_kinds(LAYERS)
    for arm in plan_sweep(asked, {})[-2:]:
        precision = plan_precision(arm.config.precision, arm.config.fp8_format, kinds)
        found = [fmt.name for _, fmt in precision.layers[0].formats]
        own = ["E4M3@128x128:float32", "E4M3@128:float32", "E4M3@128:float32"]
        assert (arm.format, found) in (("E4M3@128x128:float32", own), ("E5M2", ["E5M2"] * 3))


def test_seeds_and_axes_multiply_and_share_what_they_can() -> None:
    asked = spec(
        order=("E7M0",),
        retries=False,
        seeds=(42, 43),
        axes=(("precision.rounding", ("nearest", "stochastic")),),
    )
    assert names(asked) == [
        *("fp32-seed42", "frozen-seed42", "bf16-seed42", "fp32-seed43", "frozen-seed43", "bf16-seed43"),
        *("e7m0-uniform-rounding-nearest-seed42", "e7m0-uniform-rounding-stochastic-seed42"),
        *("e7m0-uniform-rounding-nearest-seed43", "e7m0-uniform-rounding-stochastic-seed43"),
    ]
    by_rate = names(spec(order=("E7M0",), retries=False, axes=(("learning_rate", ("2e-4", "6e-4")),)))
    assert by_rate[0] == "fp32-learning_rate-2e-4"
    assert len(by_rate) == 8
    for arm in plan_sweep(asked, {}):
        assert arm.controls is not None
        assert arm.name.endswith(arm.controls["fp32"][-6:])


def test_equal_configurations_are_one_arm() -> None:
    asked = spec(order=("E7M0",), retries=False, axes=(("precision.regime", ("uniform", "uniform")),))
    assert names(asked) == ["fp32", "frozen", "bf16", "e7m0-uniform"]


def test_equivalent_formats_are_said_and_skipped_on_request() -> None:
    asked = spec()
    assert [str(equal) for equal in equivalences(asked)] == ["E0M7 is 0.25 x E1M6"]
    assert "e0m7-uniform" not in names(spec(skip_equivalent=True, retries=False))
    unscaled = load_config("base", ["precision.scaling.recipe=none"])
    assert equivalences(spec(base=unscaled)) == ()


def test_the_plan_depends_on_nothing_but_its_arguments(find: Find) -> None:
    asked = spec(order=("E1M6", "E7M0"), with_interventions=True, attribute=True)
    findings = {
        "e7m0-uniform": find("e7m0-uniform", rho=0.1, layers={"bit_stall_rate": [0.9, 0.99, 0.8, 0.7]}),
        "e1m6-uniform": find("e1m6-uniform", rho=0.4),
    }
    backwards = dict(reversed(findings.items()))
    assert plan_sweep(asked, findings) == plan_sweep(asked, backwards)
    partly = plan_sweep(asked, {"e7m0-uniform": findings["e7m0-uniform"]})
    whole = {arm.name: arm for arm in plan_sweep(asked, findings)}
    assert all(whole[arm.name] == arm for arm in partly)


def test_a_specification_survives_its_json() -> None:
    asked = spec(
        order=("E3M4:bias=3", "E7M0"), seeds=(1, 2), axes=(("learning_rate", ("1e-3",)),), attribute=True
    )
    assert SweepSpec.from_json(asked.to_json()) == asked
    for tune in (None, (), (2e-4, 6e-4)):
        tuned = spec(rules=RULES, tune=tune, own_rates=False)
        assert SweepSpec.from_json(tuned.to_json()) == tuned


@pytest.mark.parametrize("values", [{}, {"base": 3}, {"base": {"sede": 1}}])
def test_a_damaged_specification_is_a_usage_error(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SweepSpec.from_json(values)


def test_what_the_command_line_says_is_parsed() -> None:
    assert parse_order("e5m2, E3M4:BIAS=3") == ("E5M2", "E3M4:bias=3")
    assert parse_seeds("42,43") == (42, 43)
    assert parse_axes(["learning_rate=2e-4,6e-4"]) == (("learning_rate", ("2e-4", "6e-4")),)
    assert parse_rules("adamw, eco+stochastic") == ("adamw", "eco+stochastic")
    assert parse_rates("2e-3, 6e-4") == (6e-4, 2e-3)
    assert parse_rates("") == ()
    with pytest.raises(UsageError, match="not a list of learning rates: '1e-3,fast'"):
        parse_rates("1e-3,fast")
    lists = parse_axes(["optimizer.betas=[0.9,0.95], [0.9,0.99]", "precision.rules=[{pattern: 'a,b'}],[]"])
    assert [values for _, values in lists] == [("[0.9,0.95]", "[0.9,0.99]"), ("[{pattern: 'a,b'}]", "[]")]


def test_an_axis_of_lists_gives_each_arm_its_own() -> None:
    axes = parse_axes(["optimizer.betas=[0.9,0.95],[0.5,0.99]"])
    arms = plan_sweep(spec(axes=axes), {})
    assert {arm.config.optimizer.betas for arm in arms} == {(0.9, 0.95), (0.5, 0.99)}
    assert len({arm.name for arm in arms}) == len(arms)


@pytest.mark.parametrize(
    "make",
    [
        lambda: parse_order("e5m2,e9z9"),
        lambda: parse_seeds("42,x"),
        lambda: parse_seeds(""),
        lambda: parse_axes(["learning_rate"]),
        lambda: parse_axes(["optimizer.betas=[0.9,0.95"]),
        lambda: parse_axes(["optimizer.betas=0.9],[0.95"]),
        lambda: spec(axes=parse_axes(["optimizer.betas=0.9,0.95"])),
        lambda: spec(order=()),
        lambda: spec(order=("E5M2", "E5M2")),
        lambda: spec(axes=(("seed", ("1",)),)),
        lambda: spec(axes=(("lerning_rate", ("1e-3",)),)),
        lambda: spec(axes=(("learning_rate", ("-1",)),)),
    ],
)
def test_mistakes_are_usage_errors_before_anything_runs(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


RULES = ("adamw", "adamw+stochastic", "lion")


def test_rules_are_an_axis_with_controls_of_their_own_that_do_not_notice_the_rounding() -> None:
    arms = {arm.name: arm for arm in plan_sweep(spec(order=("E7M0",), rules=RULES, retries=False), {})}
    assert list(arms) == [
        *("fp32-adamw", "frozen-adamw", "bf16-adamw", "fp32-lion", "frozen-lion"),
        *("e7m0-uniform-adamw", "e7m0-uniform-adamw+stochastic", "e7m0-uniform-lion"),
    ]
    stochastic = arms["e7m0-uniform-adamw+stochastic"]
    assert stochastic.config.precision.rounding == "stochastic"
    assert stochastic.controls == arms["e7m0-uniform-adamw"].controls
    assert arms["e7m0-uniform-lion"].controls == {"fp32": "fp32-lion", "frozen": "frozen-lion"}
    for name, arm in arms.items():
        lion = name.endswith("lion")
        assert (arm.config.optimizer.rule, arm.config.learning_rate) == (
            ("lion", 2e-4) if lion else ("adamw", 6e-4)
        )


def test_rules_with_a_given_rate_and_rules_that_come_to_the_same() -> None:
    base = load_config("base", ["learning_rate=1e-3", "precision.rounding=stochastic"])
    asked = spec(base=base, order=("E7M0",), rules=RULES, own_rates=False, retries=False)
    arms = plan_sweep(asked, {})
    assert {arm.config.learning_rate for arm in arms} == {1e-3}
    assert [arm.name for arm in arms if arm.kind == "format"] == ["e7m0-uniform-adamw", "e7m0-uniform-lion"]
    by_axis = replace(asked, own_rates=True, axes=(("learning_rate", ("3e-4",)),))
    assert {arm.config.learning_rate for arm in plan_sweep(by_axis, {})} == {3e-4}


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"rules": ("adamw", "adamw")}, "--rules", "named twice: adamw"),
        ({"rules": ("eko",)}, "--rules", "did you mean eco?"),
        ({"rules": ("adamw+sometimes",)}, "--rules", "adamw+sometimes"),
        ({"rules": ("adamw",), "axes": (("optimizer.rule", ("lion",)),)}, "optimizer.rule", "use --rules"),
        ({"rules": RULES, "axes": (("precision.rounding", ("nearest",)),)}, "rounding", "use --rules"),
        ({"tune": (1e-3, 1e-3)}, "--tune", "named twice: 0.001"),
        ({"tune": (-1e-3,)}, "--tune", "a positive number"),
        ({"tune": (float("nan"),)}, "--tune", "a positive number"),
        ({"tune": (), "axes": (("learning_rate", ("1e-3",)),)}, "learning_rate", "use --tune"),
        ({"tune": (), "base": load_config("base", ["data.evaluate_on=final"])}, "--tune", "leave data"),
    ],
)
def test_what_rules_and_rates_refuse(changes: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        spec(**changes)
    error = refused.value
    assert where in str(error.where)
    assert said in f"{error.message} {error.allowed} {error.hint}"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("embedded", "law.jsonl"), ("embedded", "law")),
        (("cellar/train.jsonl", "../eurlex57k"), ("cellar", "eurlex57k")),
        (("/a/x/Law.txt.gz", "/b/x/law.jsonl"), ("a-x-law", "b-x-law")),
        (("law.txt", "law.jsonl"), ("law", "law-2")),
        (("train.jsonl", "my law.txt"), ("train", "my-law")),
    ],
)
def test_a_text_has_a_short_word_of_its_own(texts: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert tuple(text_words(texts).values()) == words


def test_each_text_has_its_own_controls_and_its_own_rates() -> None:
    texts = ("embedded", "cellar/train.jsonl")
    asked = spec(order=("E7M0",), texts=texts, seeds=(42, 43), retries=False)
    arms = {arm.name: arm for arm in plan_sweep(asked, {})}
    assert len(arms) == 2 * 2 * 4
    for word, path in (("embedded", None), ("cellar", "cellar/train.jsonl")):
        for seed in (42, 43):
            studied = arms[f"e7m0-uniform-{word}-seed{seed}"]
            for arm in (studied, *(arms[name] for name in (studied.controls or {}).values())):
                assert (arm.config.data.path, arm.config.seed) == (path, seed)
            assert (studied.controls or {})["fp32"] == f"fp32-{word}-seed{seed}"
    tuned = plan_sweep(replace(asked, tune=(1e-3, 2e-3)), {})
    assert {arm.name for arm in tuned if arm.name.startswith("tune-e7m0")} == {
        f"tune-e7m0-uniform-{word}-{rate}-seed{seed}"
        for word in ("embedded", "cellar")
        for rate in ("1e-3", "2e-3")
        for seed in (42, 43)
    }
    assert [arm.name for arm in plan_sweep(replace(asked, texts=texts[1:], seeds=(42,)), {})][-1] == (
        "e7m0-uniform"
    )


def test_a_head_of_another_name_stays_a_head_where_a_role_is_restored() -> None:
    config = load_config("base", ["precision.regime=standard", "fp8_format=E3M4"])
    kinds: dict[str, LayerKind] = {"body": "hidden", "answer": "head"}
    rescued = restored(config, "activations", ["answer", "body"], kinds)
    formats = {rule.pattern: rule.format for rule in rescued.precision.rules}
    assert formats == {"body": "E3M4", "answer": "BF16"}
