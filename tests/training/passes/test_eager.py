"""A pass changes nothing, can be called again, and evaluation leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.surgery.linear import Tap
from altgrad_cli.surgery.precision_plan import without_rounding
from altgrad_cli.training.passes.eager import evaluation_loss, run_pass, shadow_pass
from altgrad_cli.training.state import TrainState
from tests.training.states import gpt_state, random_batch, take_step

Tiny = Callable[..., TrainConfig]
REGIMES = ("fp32", "bf16", "standard", "uniform", "frozen", "postln")


def built(tiny: Tiny, *overrides: str) -> TrainState:
    state = gpt_state(
        tiny("fp8_format=E4M3", "model.dropout=0.1", "precision.rounding=stochastic_all", *overrides)
    )
    take_step(state)
    return state


def everything(state: TrainState) -> dict[str, object]:
    """A copy of all that a pass might touch."""
    return {
        "values": state.flat.values.clone(),
        "gradient": state.flat.gradient.clone(),
        "m": state.optimizer.slots["m"].clone(),
        "v": state.optimizer.slots["v"].clone(),
        "streams": state.streams.state_dict(),
        "histories": [[None if h is None else list(h.values) for h in row] for row in state.scales.histories],
        "stored_scales": list(state.stored_scales),
        "default stream": torch.random.get_rng_state(),
        "step": (state.step, state.optimizer.steps),
    }


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    for name in one:
        a, b = one[name], other[name]
        if name == "streams":
            assert all(torch.equal(a[key], b[key]) for key in a), name  # type: ignore[index, attr-defined]
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b), name  # type: ignore[arg-type]
        else:
            assert a == b, name


@pytest.mark.parametrize("regime", REGIMES)
def test_a_pass_changes_nothing_and_repeats_itself_bit_for_bit(tiny: Tiny, regime: str) -> None:
    state = built(tiny, f"precision.regime={regime}")
    before = everything(state)
    first, second = (run_pass(state, random_batch(2)) for _ in range(2))
    assert_same(before, everything(state))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.gradient, second.gradient)
    assert first.scales_used == second.scales_used
    assert state.slot.rounding is None
    assert state.slot.noise is None


def test_a_pass_draws_from_forks_that_it_hands_back(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")
    result = run_pass(state, random_batch(2))
    assert set(result.streams_after) == {"dropout", "rounding_operands"}
    for purpose, generator in result.streams_after.items():
        assert not torch.equal(generator.get_state(), state.streams[purpose].get_state()), purpose
    state.streams.adopt_all(result.streams_after)
    assert not torch.equal(run_pass(state, random_batch(2)).loss, result.loss)


def test_the_gradient_goes_where_it_is_asked_to_go(tiny: Tiny) -> None:
    state = built(tiny)
    out = torch.empty_like(state.flat.values)
    result = run_pass(state, random_batch(2), out=out)
    assert result.gradient is out
    assert torch.equal(out, run_pass(state, random_batch(2)).gradient)


def test_without_rounding_loss_and_gradient_are_torchs(tiny: Tiny) -> None:
    state = gpt_state(tiny("precision.regime=fp32"))
    batch = random_batch()
    result = run_pass(state, batch)
    logits = state.model(batch.x)  # no slot in force: plain linear layers, plain autograd
    loss = F.cross_entropy(logits.reshape(-1, 256), batch.y.reshape(-1))
    loss.backward()  # into .grad, that is into the flat buffer
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(result.gradient, state.flat.gradient, rtol=1e-4, atol=1e-7)


def test_evaluation_touches_no_history_and_no_stream_and_repeats_itself(tiny: Tiny) -> None:
    for regime in ("standard", "uniform"):
        state = built(tiny, f"precision.regime={regime}")
        batches = [random_batch(seed) for seed in (5, 6, 7)]
        before = everything(state)
        first = evaluation_loss(state, batches)
        assert_same(before, everything(state))
        assert torch.equal(first, evaluation_loss(state, batches))
        assert not first.requires_grad


def test_evaluation_is_the_mean_over_the_batches(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")
    batches = [random_batch(seed) for seed in (5, 6, 7)]
    each = [float(evaluation_loss(state, [batch])) for batch in batches]
    assert float(evaluation_loss(state, batches)) == pytest.approx(sum(each) / 3, rel=1e-12)


def test_evaluation_is_of_the_deployed_model_and_not_of_the_master(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard", "fp8_format=E7M0")
    batches = [random_batch(5)]
    deployed = evaluation_loss(state, batches)
    master = evaluation_loss(state, batches, without_rounding(state.plan))
    assert not torch.equal(deployed, master)
    with torch.no_grad():
        plain = F.cross_entropy(state.model(batches[0].x).reshape(-1, 256), batches[0].y.reshape(-1))
    assert float(master) == pytest.approx(float(plain), rel=1e-6)


def test_evaluation_rounds_to_nearest_where_training_rounds_stochastically(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")
    nearest = gpt_state(tiny("fp8_format=E4M3", "model.dropout=0.1", "precision.regime=standard"))
    nearest.flat.values.copy_(state.flat.values)
    for mine, its in zip(nearest.scales.histories, state.scales.histories, strict=True):
        for history, other in zip(mine, its, strict=True):
            if history is not None and other is not None:
                history.values = other.values
    batches = [random_batch(5)]
    assert torch.equal(evaluation_loss(state, batches), evaluation_loss(nearest, batches))


def test_the_shadow_sees_the_same_dropout_and_no_tap(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=fp32")
    assert torch.equal(
        shadow_pass(state, random_batch(2)).gradient, run_pass(state, random_batch(2)).gradient
    )


def test_a_tap_reaches_one_layer_and_role(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")

    def tap(layer: int, role: str, x: torch.Tensor) -> torch.Tensor:
        return x * torch.nan if (layer, role) == (3, "gradients") else x

    planted: Tap = tap  # type: ignore[assignment]
    result = run_pass(state, random_batch(2), tap=planted)
    views = state.flat.linear_views(result.gradient)
    assert [bool(view.isnan().any()) for view in views[:5]] == [True] * 4 + [False]
    assert float(result.loss) == float(run_pass(state, random_batch(2)).loss)


def test_counting_is_free_of_consequence(tiny: Tiny) -> None:
    state = built(tiny, "precision.regime=standard")
    counted, plain = (run_pass(state, random_batch(2), count=which) for which in ("all", None))
    assert counted.stats is not None
    assert plain.stats is None
    assert torch.equal(counted.gradient, plain.gradient)
