"""The update before it happens: stored weights stay on their grid, scales have hysteresis, nothing leaks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.weights.grid import grid_alignment_error
from altgrad_cli.rounding.quantize import STATS, code_index, encode
from altgrad_cli.training.passes.eager import run_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.update import CandidateUpdate, candidate_update, commit, re_encode
from tests.training.states import gpt_state, random_batch, take_step

Tiny = Callable[..., TrainConfig]
FORMATS = ("E0M7", "E1M6", "E2M5", "E3M4", "E4M3", "E5M2", "E6M1", "E7M0", "MXFP4", "E3M4@5x7")


def stored_views(state: TrainState) -> list[torch.Tensor]:
    return state.flat.linear_views(state.flat.values)


def by_torch(state: TrainState, gradient: torch.Tensor, rate: float) -> torch.Tensor:
    """One step of torch.optim.AdamW from a copy of the parameters; state of its own (the first step)."""
    flat = state.flat
    matrices = torch.nn.Parameter(flat.values[: flat.matrix_end].clone())
    vectors = torch.nn.Parameter(flat.values[flat.matrix_end :].clone())
    optimizer = torch.optim.AdamW(
        [{"params": [matrices], "weight_decay": 0.1}, {"params": [vectors], "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    matrices.grad, vectors.grad = (
        gradient[: flat.matrix_end].clone(),
        gradient[flat.matrix_end :].clone(),
    )
    optimizer.step()
    return torch.cat((matrices.detach(), vectors.detach()))


def test_the_candidate_is_torchs_adamw_with_decay_on_matrices_only(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.regime=fp32"))
    result = run_pass(state, random_batch())
    update = candidate_update(state, result.gradient, 1e-3)
    assert torch.equal(update.unrounded, by_torch(state, result.gradient, 1e-3))


@pytest.mark.parametrize("regime", ["fp32", "standard", "uniform"])
def test_a_candidate_leaves_the_state_alone_until_it_is_committed(tiny: Tiny, regime: str) -> None:
    state = gpt_state(tiny(f"precision.regime={regime}", "precision.rounding=stochastic"))
    result = run_pass(state, random_batch())
    values, m = state.flat.values.clone(), state.optimizer.slots["m"].clone()
    stream = state.streams["rounding_update"].get_state()
    first = candidate_update(state, result.gradient, 1e-3)
    kept = None if first.stored is None else [tensor.clone() for tensor in first.stored]
    second = candidate_update(state, result.gradient, 1e-3)
    assert torch.equal(state.flat.values, values)
    assert torch.equal(state.optimizer.slots["m"], m)
    assert state.optimizer.steps == 0
    assert torch.equal(state.streams["rounding_update"].get_state(), stream)
    if kept is not None and second.stored is not None:
        assert all(torch.equal(a, b) for a, b in zip(kept, second.stored, strict=True)), "reproducible"
    commit(state, second)
    assert not torch.equal(state.flat.values, values)
    assert not torch.equal(state.optimizer.slots["m"], m)
    assert state.optimizer.steps == 1
    drawn = not torch.equal(state.streams["rounding_update"].get_state(), stream)
    assert drawn == (regime == "uniform")


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", FORMATS)
def test_stored_weights_are_on_their_grid_after_every_step(tiny: Tiny, name: str, rounding: str) -> None:
    state = gpt_state(tiny(f"fp8_format={name}", f"precision.rounding={rounding}"))
    fmt = parse_format(name)
    grid = {value for value in fmt.values() if math.isfinite(value)}
    for step in range(8):
        take_step(state, seed=step, learning_rate=2e-2)
        for index, weights in enumerate(stored_views(state)):
            place, scales = state.stored_grid(index), state.stored_scales[index]
            assert place is not None and scales is not None
            scale = place.spread(scales, weights.shape)
            assert float(grid_alignment_error(weights, fmt, scale).abs().max()) == 0
            assert set((weights.double() / scale).unique().tolist()) <= grid


def test_the_rest_of_the_network_takes_the_unrounded_update(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E7M0"))
    result = run_pass(state, random_batch())
    expected = by_torch(state, result.gradient, 1e-3)
    update = candidate_update(state, result.gradient, 1e-3)
    commit(state, update)
    end = state.flat.linear_end
    assert torch.equal(state.flat.values[end:], expected[end:])
    assert not torch.equal(state.flat.values[:end], expected[:end])


def test_frozen_blocks_get_no_update_and_no_decay(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.regime=frozen"))
    before = state.flat.values.clone()
    for step in range(3):
        take_step(state, seed=step)
    end = state.flat.linear_end
    assert torch.equal(state.flat.values[:end], before[:end])
    assert not state.optimizer.slots["m"][:end].any()
    assert (state.flat.values[end:] != before[end:]).float().mean() > 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, -1])
def test_a_gradient_that_is_not_finite_makes_an_update_that_says_so(
    tiny: Tiny, bad: float, where: int
) -> None:
    state = gpt_state(tiny())
    gradient = run_pass(state, random_batch()).gradient
    gradient[where] = bad
    update = candidate_update(state, gradient, 1e-3)
    assert not update.finite
    assert update.stored is None
    assert update.rescales == []
    assert not math.isfinite(update.amax[where])
    assert sum(not math.isfinite(value) for value in update.amax) == 1


def rescales_of(state: TrainState) -> dict[int, tuple[float, float]]:
    update = candidate_update(state, torch.zeros_like(state.flat.values), 1e-30)
    return {r.layer: (r.before, r.after) for r in update.rescales}


@pytest.mark.parametrize("name", ["E3M4", "E5M2", "E0M7"])
def test_scales_rise_on_overflow_and_fall_far_below_the_maximum_only(tiny: Tiny, name: str) -> None:
    state = gpt_state(tiny(f"fp8_format={name}", "optimizer.weight_decay=0"))
    fmt = parse_format(name)
    scale = state.stored_scales[2]
    assert scale is not None
    assert rescales_of(state) == {}, "fresh scales hold"
    room = fmt.max_representable_value * scale
    for target, expected in (
        (room, False),
        (fmt.overflow_threshold * scale * 0.999999, False),
        (fmt.overflow_threshold * scale, True),
        (room * 1.9, True),
        (room / 4, False),
        (room / 4 * 0.999, True),
    ):
        stored_views(state)[2].zero_().view(-1)[0] = target
        moved = rescales_of(state)
        assert (2 in moved) == expected, (target / room, moved)
        if expected:
            before, after = moved[2]
            assert before == scale
            assert after == 2.0 ** math.ceil(math.log2(1.25 * target / fmt.max_representable_value))


def test_e7m0_has_scale_one_whatever_its_weights_do(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E7M0"))
    for factor in (2.0**20, 2.0**-40):
        stored_views(state)[0].mul_(factor)
        assert rescales_of(state) == {}
    assert state.stored_scales[:8] == [1.0] * 8


def test_a_rescale_encodes_again_from_the_unrounded_candidate(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E3M4", "optimizer.weight_decay=0"))
    scale = state.stored_scales[0]
    assert scale is not None
    gradient = torch.zeros_like(state.flat.values)
    view = state.flat.linear_views(gradient)[0]
    view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(0)))
    view.view(-1)[0] = -1.0
    stored_views(state)[0].view(-1)[0] = 124 * scale
    # a step of 3 scales: the first weight leaves the range, the others land between grid points
    update = candidate_update(state, gradient, 3 * scale)
    assert [(r.layer, r.before, r.after) for r in update.rescales] == [(0, scale, 2 * scale)]
    wide = state.flat.linear_views(update.unrounded)[0].clone()
    assert update.stored is not None
    at_old_scale = update.stored[0].clone()
    fmt = parse_format("E3M4")
    flips = re_encode(state, update)
    direct = encode(wide, fmt, 2 * scale)
    assert torch.equal(encode(update.stored[0], fmt, 2 * scale), direct)
    twice = encode(at_old_scale, fmt, 2 * scale)
    assert not torch.equal(twice, direct), "rounding the rounded would show"
    changed = (update.stored[0] != at_old_scale).float().mean()
    assert flips == {0: pytest.approx(float(changed))}
    assert 0 < flips[0] < 1
    assert state.stored_scales[0] == scale, "not before the commit"
    commit(state, update)
    assert state.stored_scales[0] == 2 * scale
    assert torch.equal(stored_views(state)[0], update.stored[0])


def test_an_update_is_counted_at_the_scale_before_it(tiny: Tiny) -> None:
    """Weights that overflow the old scale are seen as overflow, although the new scale holds them."""
    state = gpt_state(tiny("fp8_format=E3M4", "optimizer.weight_decay=0"))
    scale = state.stored_scales[0]
    assert scale is not None
    stored_views(state)[0].view(-1)[:7] = 124 * scale * 2
    update = candidate_update(state, torch.zeros_like(state.flat.values), 1e-30)
    assert update.stored_stats is not None
    assert update.stored_stats[0, STATS.index("overflow")] == 7
    assert [r.layer for r in update.rescales] == [0]


def test_a_mixed_plan_stores_some_layers_and_keeps_masters_of_the_others(tiny: Tiny) -> None:
    rule = 'precision.rules=[{pattern: "blocks.0.*", format: BF16}]'
    state = gpt_state(tiny("fp8_format=E3M4", rule))
    result = run_pass(state, random_batch())
    expected = by_torch(state, result.gradient, 1e-3)
    update = candidate_update(state, result.gradient, 1e-3)
    assert update.stored_stats is not None
    assert update.stored_stats[:, 0].isnan().tolist() == [True] * 4 + [False] * 4
    commit(state, update)
    for index, (weights, wide) in enumerate(
        zip(stored_views(state), state.flat.linear_views(expected), strict=True)
    ):
        assert torch.equal(weights, wide) == (index < 4)


def test_stochastic_updates_are_unbiased(tiny: Tiny) -> None:
    """tau = <w' - w, dw> / |dw|^2 has mean 1: its mean over many draws lies within three standard errors."""
    state = gpt_state(tiny("fp8_format=E3M4", "precision.rounding=stochastic"))
    gradient = run_pass(state, random_batch()).gradient
    end = state.flat.linear_end
    before = state.flat.values[:end].double()

    def transfer(update: CandidateUpdate) -> float:
        assert update.rounded is not None
        dw = update.unrounded[:end].double() - before
        return float(((update.rounded.double() - before) @ dw) / (dw @ dw))

    taus = []
    for _ in range(200):
        update = candidate_update(state, gradient, 1e-4)
        taus.append(transfer(update))
        state.streams.adopt("rounding_update", update.rounding_stream)
    mean = sum(taus) / len(taus)
    deviation = math.sqrt(sum((tau - mean) ** 2 for tau in taus) / (len(taus) - 1))
    assert deviation > 0
    assert abs(mean - 1) < 3 * deviation / math.sqrt(len(taus))
    nearest = gpt_state(tiny("fp8_format=E3M4"))
    assert transfer(candidate_update(nearest, gradient, 1e-4)) < 0.9, "to nearest it is biased"


def test_stochastic_updates_go_to_a_neighbour(tiny: Tiny) -> None:
    state = gpt_state(tiny("fp8_format=E3M4", "precision.rounding=stochastic"))
    gradient = run_pass(state, random_batch()).gradient
    update = candidate_update(state, gradient, 1e-3)
    assert update.stored is not None
    fmt = parse_format("E3M4")
    for index, (wide, rounded) in enumerate(
        zip(state.flat.linear_views(update.unrounded), update.stored, strict=True)
    ):
        scale = state.stored_scales[index]
        assert scale is not None
        assert int((code_index(rounded, fmt, scale) - code_index(wide, fmt, scale)).abs().max()) <= 1


def test_moments_are_stored_only_where_the_role_is_on(tiny: Tiny) -> None:
    plain = gpt_state(tiny("fp8_format=E4M3", "precision.regime=standard"))
    gradient = run_pass(plain, random_batch()).gradient
    plain_m = candidate_update(plain, gradient, 1e-3).proposal.slots["m"]
    torch.testing.assert_close(plain_m, 0.1 * gradient, rtol=1e-6, atol=0)
    state = gpt_state(
        tiny(
            "fp8_format=E4M3",
            "precision.regime=standard",
            "precision.roles=[weights, activations, gradients, optimizer_state]",
        )
    )
    m = candidate_update(state, gradient, 1e-3).proposal.slots["m"]
    end = state.flat.linear_end
    assert not torch.equal(m[:end], plain_m[:end])
    assert torch.equal(m[end:], plain_m[end:])
    torch.testing.assert_close(m[:end], plain_m[:end], rtol=0.07, atol=1e-5)


def test_the_frozen_control_keeps_the_moments_of_its_blocks_through_steps(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.regime=frozen"))
    end = state.flat.linear_end
    weights = state.flat.values[:end].clone()
    for seed in range(3):
        commit(state, candidate_update(state, run_pass(state, random_batch(seed)).gradient, 1e-3))
        assert torch.equal(state.flat.values[:end], weights)
        assert not state.optimizer.slots["m"][:end].any() and not state.optimizer.slots["v"][:end].any()
        assert state.optimizer.slots["m"][end:].any()
