"""Planted faults: the syntax, the place that is struck, and that nothing else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.subjects.gpt.layer_names import layer_kinds
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.precision_plan import PrecisionPlan, plan_precision
from altgrad_cli.training.faults import SPIKE, Faults, Injection, parse_injection, resolve_injections
from altgrad_cli.training.passes.eager import run_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.update import candidate_update
from tests.training.states import gpt_state

Tiny = Callable[..., TrainConfig]
LAYERS = layer_kinds(["blocks.0.attn.c_attn", "blocks.0.mlp.c_fc", "lm_head"])


def plan_of(*overrides: str) -> PrecisionPlan:
    config = load_config("base", ["fp8_format=E5M2", *overrides])
    return plan_precision(config.precision, config.fp8_format, LAYERS)


UNIFORM = plan_of("precision.regime=uniform")


@pytest.fixture
def state(tiny: Tiny) -> TrainState:
    return gpt_state(tiny("fp8_format=E5M2", "precision.regime=standard"))


@pytest.fixture
def batch() -> Batch:
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(1))
    return Batch(x=tokens[:, :-1].contiguous(), y=tokens[:, 1:].contiguous(), offsets=(0, 1, 2, 3))


def faults(state: TrainState, *texts: str) -> Faults:
    return Faults(resolve_injections(texts, state.plan, 42), 42)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nan@5", Injection("nan@5", "nan", 5)),
        ("NaN@5", Injection("NaN@5", "nan", 5)),
        ("kill@12", Injection("kill@12", "kill", 12)),
        ("inf@1:data", Injection("inf@1:data", "inf", 1, "data")),
        ("bitflip@3:lm_head", Injection("bitflip@3:lm_head", "bitflip", 3, "lm_head")),
        (
            "spike@7:blocks.0.mlp.c_fc:gradients",
            Injection("spike@7:blocks.0.mlp.c_fc:gradients", "spike", 7, "blocks.0.mlp.c_fc", "gradients"),
        ),
    ],
)
def test_the_syntax(text: str, expected: Injection) -> None:
    assert parse_injection(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a fault"),
        ("nan", "not a fault"),
        ("nan@", "not a fault"),
        ("nan@5:", "not a fault"),
        ("nan@5:a:b:c", "not a fault"),
        ("nam@5", "unknown fault: 'nam'"),
        ("nan@0", "'0' is not a step"),
        ("nan@-1", "'-1' is not a step"),
        ("nan@1.5", "'1.5' is not a step"),
        ("nan@five", "'five' is not a step"),
        ("nan@5:x:gradient", "unknown role: 'gradient'"),
        ("kill@5:lm_head", "kill strikes the whole process"),
        ("amax@5:data", "only operands"),
        ("amax@5:lm_head:stored_weights", "only operands"),
        ("nan@5:data:weights", "'data' takes no role"),
    ],
)
def test_bad_syntax_is_a_config_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_injection(text)
    assert message in refused.value.message
    assert refused.value.where == "inject"
    assert refused.value.allowed


def test_a_typo_names_the_nearest_layer() -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_injections(["nan@5:blocks.0.atn.c_attn"], UNIFORM, 42)
    assert refused.value.hint == "did you mean blocks.0.attn.c_attn?"
    with pytest.raises(ConfigError) as refused:
        parse_injection("nan@5:lm_head:gradient")
    assert refused.value.hint == "did you mean gradients?"


def test_open_places_are_chosen_alike_in_every_process() -> None:
    (here,) = resolve_injections(["nan@5"], UNIFORM, 42)
    script = (
        "from altgrad_cli.training.faults import resolve_injections;"
        "from tests.training.test_faults import UNIFORM;"
        "f = resolve_injections(['nan@5'], UNIFORM, 42)[0]; print(f.module, f.role)"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert there.stdout.split() == [here.module, here.role]
    assert {resolve_injections([f"nan@{n}"], UNIFORM, 42)[0].role for n in range(1, 20)} > {here.role}


@pytest.mark.parametrize("role", ["weights", "activations", "gradients"])
@pytest.mark.parametrize("kind", ["nan", "inf", "spike", "bitflip"])
def test_one_element_of_one_operand_is_struck(state: TrainState, batch: Batch, role: str, kind: str) -> None:
    planted = faults(state, f"{kind}@5:blocks.1.attn.c_proj:{role}")
    before: dict[tuple[int, str], torch.Tensor] = {}
    run_pass(state, batch, tap=lambda layer, r, x: before.setdefault((layer, r), x.clone()))
    seen: dict[tuple[int, str], torch.Tensor] = {}
    with planted.active(state, batch, 5) as tap:
        assert tap is not None

        def watch(layer: int, r: str, x: torch.Tensor) -> torch.Tensor:
            return seen.setdefault((layer, r), tap(layer, r, x))  # type: ignore[arg-type]

        run_pass(state, batch, tap=watch)
    layer = state.layer_names.index("blocks.1.attn.c_proj")
    changed = (seen[layer, role] != before[layer, role]).flatten()
    assert int(changed.sum()) == 1
    (struck,) = planted.struck
    assert int(changed.nonzero()[0]) == struck["index"]
    expected = {"nan": torch.nan, "inf": torch.inf, "spike": SPIKE}.get(kind)
    if expected is not None:
        assert repr(struck["after"]) == repr(float(expected))
    assert struck["before"] == float(before[layer, role].flatten()[struck["index"]])
    if role != "gradients":  # what was computed before the strike is untouched
        for (other, r), tensor in before.items():
            if r in ("weights", "activations") and other < layer:
                assert torch.equal(seen[other, r], tensor)


def test_other_steps_are_left_alone(state: TrainState, batch: Batch) -> None:
    planted = faults(state, "nan@5:lm_head:gradients", "inf@6:data", "amax@7:blocks.0.mlp.c_fc:weights")
    with planted.active(state, batch, 4) as tap:
        assert tap is None
        assert bool(torch.isfinite(run_pass(state, batch).gradient).all())
    assert planted.alter_batch(batch, 4) is batch
    planted.before_step(state, 4)
    assert planted.struck == []


def test_a_data_fault_strikes_the_embedded_batch_and_is_gone_afterwards(
    state: TrainState, batch: Batch
) -> None:
    planted = faults(state, "inf@5:data")
    with planted.active(state, batch, 5) as tap:
        assert not bool(torch.isfinite(run_pass(state, batch, tap=tap).loss))
    assert bool(torch.isfinite(run_pass(state, batch).loss))
    assert bool(torch.isfinite(state.flat.values).all())
    assert planted.struck[0]["role"] == "data"


def test_a_bit_of_a_token_flips(state: TrainState, batch: Batch) -> None:
    altered = faults(state, "bitflip@5:data").alter_batch(batch, 5)
    assert int((altered.x != batch.x).sum()) == 1
    assert torch.equal(altered.y, batch.y)
    assert int((altered.x ^ batch.x).max()) == 1


def test_optimizer_faults_strike_the_first_moment(state: TrainState) -> None:
    planted = faults(state, "nan@5:optimizer", "inf@5:blocks.0.mlp.c_fc:optimizer_state")
    planted.before_step(state, 5)
    assert int(state.optimizer.slots["m"].isnan().sum()) == 1
    where = dict(zip(state.flat.names, state.flat.views(state.optimizer.slots["m"]), strict=True))
    assert int(where["blocks.0.mlp.c_fc.weight"].isinf().sum()) == 1
    assert bool(torch.isfinite(state.optimizer.slots["v"]).all())


def test_an_amax_fault_shrinks_one_history(state: TrainState) -> None:
    for row in state.scales.histories:
        for history in row:
            if history is not None:
                history.values = [1.0, 2.0]
    faults(state, "amax@5:blocks.0.mlp.c_fc:gradients").before_step(state, 5)
    struck = [
        (layer, role)
        for layer, row in enumerate(state.scales.histories)
        for role, history in enumerate(row)
        if history is not None and history.get_amax() != 2.0
    ]
    assert struck == [(state.layer_names.index("blocks.0.mlp.c_fc"), 2)]


@pytest.mark.parametrize(
    ("fault", "overrides", "allowed"),
    [
        ("amax@1", "precision.regime=uniform", "amax@2 or later"),
        ("amax@5", "precision.regime=fp32", "recipe: delayed"),
        ("amax@5", "precision.regime=bf16", "recipe: delayed"),
        ("amax@5", "precision.scaling.recipe=none", "recipe: delayed"),
        ("amax@5:lm_head", "precision.scaling.recipe=amax", "recipe: delayed"),
        ("amax@5:lm_head", "precision.regime=uniform", "blocks.0.attn.c_attn, blocks.0.mlp.c_fc"),
        ("amax@5:lm_head:gradients", "precision.regime=uniform", "blocks.0.attn.c_attn, blocks.0.mlp.c_fc"),
        ("amax@5:blocks.0.mlp.c_fc:weights", "precision.regime=uniform", "c_fc:activations, gradients"),
        ("amax@5:blocks.0.mlp.c_fc:gradients", "precision.regime=postln", "c_fc:activations"),
    ],
)
def test_an_amax_fault_that_finds_no_history_is_refused(fault: str, overrides: str, allowed: str) -> None:
    plan = plan_of(overrides)
    with pytest.raises(ConfigError, match="cannot happen") as refused:
        resolve_injections([fault], plan, 42)
    assert allowed in (refused.value.allowed or "")
    assert resolve_injections([fault], plan, 42, after=5), "what is past is not asked about"


def test_an_open_place_of_an_amax_fault_is_one_with_a_history() -> None:
    found = {
        resolve_injections([f"amax@{n}"], plan_of("precision.regime=postln"), 42)[0].role for n in range(2, 9)
    }
    assert found == {"activations"}


@pytest.mark.parametrize("regime", ["standard", "uniform"])
@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_struck_update_is_not_finite(tiny: Tiny, batch: Batch, regime: str, kind: str) -> None:
    state = gpt_state(tiny("fp8_format=E5M2", f"precision.regime={regime}"))
    update = candidate_update(state, run_pass(state, batch).gradient, 1e-3)
    assert update.finite
    planted = faults(state, f"{kind}@5:blocks.0.mlp.c_fc:stored_weights")
    assert planted.alter_update(state, update, 4) is update
    assert not planted.alter_update(state, update, 5).finite


def test_a_stored_bit_flips(state: TrainState) -> None:
    before = state.flat.values.clone()
    planted = faults(state, "bitflip@5:blocks.0.mlp.c_fc:stored_weights")
    planted.before_step(state, 5)
    changed = state.flat.values != before
    assert int(changed.sum()) == 1
    index = int(changed.nonzero()[0])
    one, other = before.view(torch.int32)[index], state.flat.values.view(torch.int32)[index]
    assert int(one ^ other) == 1 << 30


def test_kill_kills(tmp_path: object) -> None:
    script = (
        "from altgrad_cli.training.faults import *;"
        "f = Faults((parse_injection('kill@2'),), 0);"
        "f.before_step(None, 1); print('alive', flush=True);"
        "f.before_step(None, 2); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n"
    assert done.returncode == -9
