"""The state before the first step: device, init hash, encoding, scales and amax histories."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.quantize import round_to_grid
from altgrad_cli.training.passes.eager import run_pass
from altgrad_cli.training.state import choose_device, encode_stored_weights, fingerprint
from tests.training.states import gpt_state, random_batch, take_step

Tiny = Callable[..., TrainConfig]
FORMATS = ("E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E5M2", "E6M1", "E7M0")


def test_a_device_that_is_absent_names_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(ConfigError, match=f"no {name} device") as caught:
            choose_device(name)
        assert caught.value.where == "runtime.device"
        assert caught.value.allowed == "auto, cpu"


def test_auto_takes_cuda_and_never_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="float64"):
        choose_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", FORMATS)
def test_stored_weights_start_on_their_grid_and_the_hash_knows_nothing_of_it(tiny: Tiny, name: str) -> None:
    plain = gpt_state(tiny("precision.regime=fp32"))
    state = gpt_state(tiny(f"fp8_format={name}", "precision.regime=uniform"))
    assert state.init_hash == plain.init_hash == fingerprint(plain.flat.values)
    fmt = parse_format(name)
    grid = {value for value in fmt.values() if math.isfinite(value)}
    for index, view in enumerate(state.flat.linear_views(state.flat.values)):
        scale = state.stored_scales[index]
        assert scale is not None
        assert set((view.double() / scale).unique().tolist()) <= grid
    end = state.flat.linear_end
    assert torch.equal(state.flat.values[end:], plain.flat.values[end:]), "nothing else is encoded"


@pytest.mark.parametrize("name", FORMATS)
def test_a_fresh_scale_is_the_power_of_two_that_leaves_a_quarter_of_room(tiny: Tiny, name: str) -> None:
    plain = gpt_state(tiny("precision.regime=fp32"))
    state = gpt_state(tiny(f"fp8_format={name}"))
    fmt = parse_format(name)
    for scale, view in zip(state.stored_scales, plain.flat.linear_views(plain.flat.values), strict=False):
        amax = float(view.abs().max())
        # a closed form with log2 is safe here: no random amax lies within an ulp of a power of two
        expected = 2.0 ** math.ceil(math.log2(1.25 * amax / fmt.max_representable_value))
        assert scale == (1.0 if name == "E7M0" else expected)
    assert state.stored_scales[-1] is None, "the head keeps its master"


def test_another_seed_is_another_network(tiny: Tiny) -> None:
    assert gpt_state(tiny()).init_hash != gpt_state(tiny("seed=43")).init_hash


def test_delayed_scales_are_powers_of_two_of_the_last_sixteen_amax(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E4M3", "precision.regime=standard"))
    seen: list[list[list[float]]] = []
    for step in range(20):
        assert state.stored_scales == [None] * 9
        scales = state.scales.current(state.plan, state.config)
        result, _ = take_step(state, seed=step)
        assert result.stats is not None
        amax = result.stats[:, :, 0].tolist()
        for layer in range(8):
            for role in range(3):
                if not seen:
                    assert (layer, role) not in scales, "the first tensor sets its own scale"
                    largest = amax[layer][role]
                else:
                    largest = max(entry[layer][role] for entry in seen[-16:])
                expected = 2.0 ** math.ceil(math.log2(largest / 448))
                assert float(result.scales_used[layer, role]) == expected
                if seen:
                    assert scales[layer, role] == expected
        assert {scales[8, role].item() for role in range(3)} == {1.0}, "the BF16 head is not scaled"
        seen.append(amax)


def test_the_margin_widens_every_scale(tiny: Tiny) -> None:
    one, wide = (
        gpt_state(tiny("fp8_format=E4M3", f"precision.scaling.margin={margin}")) for margin in (1, 4)
    )
    a, b = (run_pass(state, random_batch()) for state in (one, wide))
    for key in a.scales_used:
        if key[0] < 8 and key[1] == 1:
            assert float(b.scales_used[key]) == 4 * float(a.scales_used[key])


def test_exact_scales_put_amax_on_the_maximum(tiny: Tiny) -> None:
    state = gpt_state(
        tiny("fp8_format=E4M3", "precision.regime=standard", "precision.scaling.power_of_two=false")
    )
    result = run_pass(state, random_batch())
    assert result.stats is not None
    assert float(result.scales_used[3, 0]) == float(result.stats[3, 0, 0]) / 448


def test_the_recipe_none_has_scale_one_everywhere(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.scaling.recipe=none", "precision.regime=standard"))
    take_step(state)
    current = state.scales.current(state.plan, state.config)
    assert current == {(layer, role): 1.0 for layer in range(9) for role in range(3)}
    assert set(map(float, run_pass(state, random_batch()).scales_used.values())) == {1.0}


def test_amax_scales_never_look_back(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.scaling.recipe=amax", "precision.regime=standard"))
    for step in range(3):
        take_step(state, seed=step)
        assert {layer for layer, _ in state.scales.current(state.plan, state.config)} == {8}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_amax_that_is_not_finite_never_enters_a_history(tiny: Tiny, bad: float) -> None:
    state = gpt_state(tiny("precision.regime=standard"))
    take_step(state)
    before = [[list(h.values) if h else None for h in row] for row in state.scales.histories]
    state.scales.update([[bad] * len(OPERAND_ROLES)] * 9)
    assert [[list(h.values) if h else None for h in row] for row in state.scales.histories] == before


def test_encoding_again_gives_fresh_scales(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E3M4"))
    layer = state.layers[0][1]
    layer.weight.data.mul_(100)
    encode_stored_weights(state)
    scale = state.stored_scales[0]
    assert scale is not None
    fmt = parse_format("E3M4")
    assert float(layer.weight.detach().abs().max()) <= fmt.max_representable_value * scale
    again = round_to_grid(layer.weight.detach(), fmt, scale)
    assert torch.equal(again, layer.weight.detach())


def test_a_large_vocabulary_only_widens_the_embedding(tiny: Tiny) -> None:
    small, large = gpt_state(tiny()), gpt_state(tiny(), 4096)
    assert large.flat.values.numel() - small.flat.values.numel() == (4096 - 256) * 32
    assert large.flat.linear_end == small.flat.linear_end
    result = run_pass(large, random_batch(vocabulary=4096))
    assert float(result.loss) == pytest.approx(math.log(4096), rel=0.01)
