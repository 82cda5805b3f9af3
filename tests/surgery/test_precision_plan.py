"""Which tensor is rounded onto which grid: every regime, the head, the rules and what is refused."""

from __future__ import annotations

import pytest

from altgrad_cli.config.precision import ROLES, LayerRule, PrecisionConfig, ScalingConfig
from altgrad_cli.errors import ConfigError, FormatError
from altgrad_cli.formats import parse_format
from altgrad_cli.subjects.gpt.layer_names import layer_kinds
from altgrad_cli.surgery.precision_plan import PrecisionPlan, plan_precision, without_rounding

BLOCK = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NAMES = [*(f"blocks.{block}.{part}" for block in range(2) for part in BLOCK), "lm_head"]
W, A, G, M, O = "weights", "activations", "gradients", "stored_weights", "optimizer_state"  # noqa: E741


def plan(format_name: str = "E3M4", **options: object) -> PrecisionPlan:
    return plan_precision(PrecisionConfig(**options), format_name, layer_kinds(NAMES))  # type: ignore[arg-type]


def rounded(made: PrecisionPlan) -> dict[str, dict[str, str]]:
    """layer -> {role: format name}, without the layers that stay in float32."""
    return {
        layer.name: {role: fmt.name for role, fmt in layer.formats} for layer in made.layers if layer.formats
    }


BF16_OPERANDS = {W: "BF16", A: "BF16", G: "BF16"}


@pytest.mark.parametrize(
    ("regime", "roles"),
    [
        ("bf16", BF16_OPERANDS),
        ("standard", {W: "E3M4", A: "E3M4", G: "E3M4"}),
        ("uniform", {A: "E3M4", G: "E3M4", M: "E3M4"}),  # W is the stored grid: one scale, one rounding
    ],
)
def test_a_regime_rounds_its_roles_in_every_block_layer_and_the_head_in_bf16(
    regime: str, roles: dict[str, str]
) -> None:
    assert rounded(plan(regime=regime)) == dict.fromkeys(NAMES[:-1], roles) | {"lm_head": BF16_OPERANDS}


@pytest.mark.parametrize("regime", ["fp32", "frozen"])
def test_the_float32_controls_round_nothing_the_head_included(regime: str) -> None:
    made = plan(regime=regime)
    assert rounded(made) == {}
    assert made.frozen_blocks == (regime == "frozen")


def test_postln_rounds_the_activations_of_the_layernorm_fed_layers_only() -> None:
    fed = [name for name in NAMES if name.endswith(("c_attn", "c_fc"))]
    assert rounded(plan(regime="postln")) == {name: {A: "E3M4"} for name in fed} | {"lm_head": BF16_OPERANDS}


@pytest.mark.parametrize("regime", ["standard", "uniform", "bf16"])
def test_the_head_follows_head_format(regime: str) -> None:
    assert "lm_head" not in rounded(plan(regime=regime, head_format="fp32"))
    head = rounded(plan(regime=regime, head_format="E5M2"))["lm_head"]
    assert head == {W: "E5M2", A: "E5M2", G: "E5M2"}, "the head keeps its float32 master in every regime"


def test_roles_replace_those_of_the_regime() -> None:
    made = plan(regime="standard", roles=(G,))
    assert rounded(made)["blocks.0.mlp.c_fc"] == {G: "E3M4"}
    assert rounded(plan(regime="uniform", roles=(W, A, G, M, O)))["blocks.0.mlp.c_fc"] == {
        A: "E3M4",
        G: "E3M4",
        M: "E3M4",
        O: "E3M4",
    }


def test_the_first_rule_that_matches_wins() -> None:
    made = plan(
        regime="uniform",
        rules=(
            LayerRule(pattern="blocks.0.attn.*", format="E5M2"),
            LayerRule(pattern="blocks.0.*", format="fp32"),
            LayerRule(pattern="*.c_attn", format="E4M3", roles=(A,), scaling="amax"),
        ),
    )
    found = rounded(made)
    assert found["blocks.0.attn.c_attn"] == {A: "E5M2", G: "E5M2", M: "E5M2"}
    assert "blocks.0.mlp.c_fc" not in found
    assert found["blocks.1.attn.c_attn"] == {A: "E4M3"}
    assert found["blocks.1.mlp.c_fc"] == {A: "E3M4", G: "E3M4", M: "E3M4"}
    recipes = {layer.name: layer.recipe for layer in made.layers}
    assert recipes["blocks.1.attn.c_attn"] == "amax"
    assert recipes["blocks.1.mlp.c_fc"] == "delayed"


def test_a_bf16_rule_means_bf16_operands_on_a_float32_master() -> None:
    made = plan(regime="uniform", rules=(LayerRule(pattern="blocks.1.mlp.c_proj", format="bf16"),))
    assert rounded(made)["blocks.1.mlp.c_proj"] == BF16_OPERANDS
    layer = made.layers[NAMES.index("blocks.1.mlp.c_proj")]
    assert layer.recipe == "none"
    assert layer.format_of(M) is None
    assert made.stores_weights


def test_a_bf16_rule_keeps_the_roles_it_names() -> None:
    rule = LayerRule(pattern="blocks.1.mlp.c_proj", format="BF16", roles=(M,))
    assert rounded(plan(regime="standard", rules=(rule,)))["blocks.1.mlp.c_proj"] == {M: "BF16"}


def test_a_rule_with_no_roles_rounds_nothing_there() -> None:
    rule = LayerRule(pattern="blocks.0.*", format="E5M2", roles=())
    assert not any(name.startswith("blocks.0") for name in rounded(plan(regime="uniform", rules=(rule,))))


def test_a_rule_for_the_head_never_stores_it() -> None:
    found = rounded(plan(regime="uniform", rules=(LayerRule(pattern="lm_head", format="E4M3"),)))
    assert found["lm_head"] == {W: "E4M3", A: "E4M3", G: "E4M3"}


def test_a_rule_rounds_operands_where_the_regime_rounds_nothing() -> None:
    found = rounded(plan(regime="fp32", rules=(LayerRule(pattern="blocks.0.mlp.c_fc", format="E4M3"),)))
    assert found == {"blocks.0.mlp.c_fc": {W: "E4M3", A: "E4M3", G: "E4M3"}}


def test_a_pattern_that_matches_nothing_names_the_nearest_layer() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(rules=(LayerRule(pattern="blocks.0.attn.c_atn", format="BF16"),))
    assert "blocks.0.attn.c_atn" in caught.value.message
    assert "blocks.0.attn.c_attn" in (caught.value.hint or "")
    assert caught.value.allowed is not None
    assert all(name in caught.value.allowed for name in NAMES)


@pytest.mark.parametrize("name", ["E3M4", "E0M7", "E1M6", "E7M0"])
def test_ieee_overflow_is_refused_where_a_format_has_no_specials(name: str) -> None:
    with pytest.raises(ConfigError, match="inf or nan"):
        plan(name, regime="standard", overflow="ieee")
    rule = LayerRule(pattern="blocks.0.*", format=name)
    with pytest.raises(ConfigError, match="inf or nan"):
        plan("E5M2", regime="standard", overflow="ieee", rules=(rule,))


@pytest.mark.parametrize("name", ["E5M2", "E4M3", "E3M4:ieee"])
def test_ieee_overflow_is_allowed_where_a_format_has_specials(name: str) -> None:
    assert rounded(plan(name, regime="standard", overflow="ieee"))


def test_ieee_needs_nothing_of_a_format_that_rounds_nothing() -> None:
    assert rounded(plan("E3M4", regime="fp32", overflow="ieee")) == {}


@pytest.mark.parametrize(
    ("rounding", "roles", "operands"),
    [
        ("nearest", (), False),
        ("stochastic", (M,), False),
        ("stochastic_gradients", (G,), True),
        ("stochastic_all", ROLES, True),
    ],
)
def test_rounding_modes(rounding: str, roles: tuple[str, ...], operands: bool) -> None:
    made = plan(rounding=rounding)
    assert (made.stochastic, made.stochastic_operands) == (roles, operands)


def test_without_rounding_leaves_out_exactly_what_is_named() -> None:
    made = plan(regime="uniform")
    assert rounded(without_rounding(made)) == {}
    fewer = rounded(without_rounding(made, role=G))
    assert fewer.keys() == rounded(made).keys()
    assert all(G not in roles and A in roles for roles in fewer.values())
    one = rounded(without_rounding(made, layer="blocks.0.mlp.c_fc"))
    assert set(NAMES) - set(one) == {"blocks.0.mlp.c_fc"}
    both = rounded(without_rounding(made, role=A, layer="blocks.0.mlp.c_fc"))
    assert both["blocks.0.mlp.c_fc"] == {G: "E3M4", M: "E3M4"}
    assert both["blocks.1.mlp.c_fc"] == {A: "E3M4", G: "E3M4", M: "E3M4"}


def test_formats_of_a_layer_are_looked_up_by_role() -> None:
    layer = plan(regime="uniform").layers[0]
    assert layer.format_of("stored_weights") == parse_format("E3M4")
    assert layer.format_of("weights") is None


def test_blocks_take_their_scales_from_the_tensor() -> None:
    made = plan("MXFP4", regime="standard", head_format="NVFP4")
    assert {layer.recipe for layer in made.layers} == {"amax"}
    assert all(layer.delayed_roles == () for layer in made.layers)
    one_scale = plan("E4M3@tensor:e8m0", regime="standard").layers[0]
    assert (one_scale.recipe, one_scale.delayed_roles) == ("delayed", (W, A, G))
    rule = LayerRule(pattern="*", format="MXFP4", scaling="delayed")
    assert plan(regime="standard", rules=(rule,)).layers[0].recipe == "amax"


def test_blocks_without_scales_are_refused() -> None:
    refused = pytest.raises(ConfigError, match="without the scales that its name asks for")
    with refused:
        plan("E4M3@row", regime="standard", scaling=ScalingConfig(recipe="none"))
    with refused:
        plan("E4M3", regime="standard", rules=(LayerRule(pattern="*", format="NVFP4", scaling="none"),))


def test_a_rule_may_give_the_gradients_a_format_of_their_own() -> None:
    rule = LayerRule(pattern="blocks.*", format="E4M3", gradient_format="E5M2")
    pair = {W: "E4M3", A: "E4M3", G: "E5M2"}
    made = rounded(plan(regime="standard", rules=(rule,)))
    assert made == dict.fromkeys(NAMES[:-1], pair) | {"lm_head": BF16_OPERANDS}
    without = LayerRule(pattern="blocks.*", format="E4M3", roles=(W,), gradient_format="E5M2")
    assert rounded(plan(regime="standard", rules=(without,)))[NAMES[0]] == {W: "E4M3"}
    with pytest.raises(FormatError, match="E5N2"):
        LayerRule(pattern="*", format="E4M3", gradient_format="E5N2")


def test_a_rule_may_give_the_activations_a_format_of_their_own() -> None:
    tiles, line = "E4M3@128x128:float32", "E4M3@128:float32"
    rule = LayerRule(pattern="blocks.*", format=tiles, activation_format=line)
    made = rounded(plan(regime="standard", rules=(rule,)))
    assert made[NAMES[0]] == {W: tiles, A: line, G: tiles}
    assert made["lm_head"] == BF16_OPERANDS
    assert rounded(plan(regime="uniform", rules=(rule,)))[NAMES[0]] == {A: line, G: tiles, M: tiles}
    with pytest.raises(FormatError, match="E4N3"):
        LayerRule(pattern="*", format="E4M3", activation_format="E4N3")


def test_a_rule_without_a_format_keeps_the_one_under_study() -> None:
    rule = LayerRule(pattern="blocks.*", gradient_format="E5M2")
    assert rounded(plan("E4M3", regime="standard", rules=(rule,)))[NAMES[0]] == {
        W: "E4M3",
        A: "E4M3",
        G: "E5M2",
    }
    assert rounded(plan("E4M3", regime="bf16", rules=(rule,)))[NAMES[0]] == BF16_OPERANDS | {G: "E5M2"}


def test_another_format_under_study_goes_without_what_belongs_to_the_first() -> None:
    own = LayerRule(pattern="blocks.0.*", activation_format="E4M3@128:float32", gradient_format="E5M2")
    some = LayerRule(pattern="blocks.1.*", roles=(W, A), activation_format="E5M2")
    kept = LayerRule(pattern="*", format="E4M3", gradient_format="E5M2")
    rules = PrecisionConfig(rules=(own, some, kept)).for_another_format().rules
    assert rules == (LayerRule(pattern="blocks.1.*", roles=(W, A)), kept)
    untouched = PrecisionConfig(rules=(kept,))
    assert untouched.for_another_format() is untouched


def test_operands_beside_bf16_have_scales() -> None:
    rule = LayerRule(pattern="blocks.*", format="BF16", activation_format="E4M3")
    layer = plan(regime="standard", rules=(rule,)).layers[0]
    assert (layer.recipe, layer.delayed_roles) == ("delayed", (W, A, G))
    alone = LayerRule(pattern="blocks.*", format="BF16")
    assert plan(regime="standard", rules=(alone,)).layers[0].recipe == "none"
