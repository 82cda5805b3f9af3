"""One buffer for all parameters: its order, its views and what shares memory with what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.training.state import TrainState
from altgrad_cli.updates.flat import largest_magnitude
from tests.training.states import gpt_state

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def state(tiny: Tiny) -> TrainState:
    return gpt_state(tiny("precision.regime=fp32"))


def test_block_matrices_come_first_then_other_matrices_then_vectors(state: TrainState) -> None:
    flat = state.flat
    linear = [f"{name}.weight" for name in state.layer_names[:-1]]
    assert list(flat.names[:8]) == linear
    assert flat.linear_count == 8
    dims = [len(shape) for shape in flat.shapes]
    assert dims == sorted(dims, reverse=True)
    assert flat.linear_end == sum(12 * 32 * 32 for _ in range(2))
    assert flat.matrix_end == flat.linear_end + 256 * 32 + 16 * 32
    assert flat.bounds[-1] == flat.values.numel() == flat.matrix_end + 5 * 32
    assert set(flat.names) == {name for name, _ in state.model.named_parameters()}


def test_the_ninth_parameter_is_the_heads(state: TrainState) -> None:
    """Per-layer lists end with the head: its gradient is the row behind the blocks'."""
    assert state.flat.names[state.flat.linear_count] == "wte.weight"
    assert state.model.lm_head.weight is state.model.wte.weight
    assert len(state.layers) == state.flat.linear_count + 1


def test_parameters_and_gradients_are_views_of_the_buffers(state: TrainState) -> None:
    flat = state.flat
    flat.values.copy_(torch.arange(flat.values.numel(), dtype=torch.float32))
    flat.gradient.copy_(flat.values * 2)
    parameters = dict(state.model.named_parameters())
    for name, start, end in zip(flat.names, flat.bounds, flat.bounds[1:], strict=False):
        assert torch.equal(parameters[name].detach().flatten(), torch.arange(start, end, dtype=torch.float32))
        assert torch.equal(parameters[name].grad.flatten(), 2 * torch.arange(start, end, dtype=torch.float32))
    with torch.no_grad():
        state.model.wpe.weight.fill_(-1)
    position = flat.names.index("wpe.weight")
    assert torch.equal(flat.views(flat.values)[position], torch.full((16, 32), -1.0))


def test_views_of_any_buffer_have_the_parameters_shapes(state: TrainState) -> None:
    buffer = torch.arange(state.flat.bounds[-1])
    views = state.flat.views(buffer)
    assert tuple(tuple(view.shape) for view in views) == state.flat.shapes
    assert torch.equal(torch.cat([view.flatten() for view in views]), buffer)
    linear = state.flat.linear_views(buffer[: state.flat.linear_end])
    assert [view.data_ptr() for view in linear] == [view.data_ptr() for view in views[:8]]


def test_flattening_keeps_every_value(tiny: Tiny) -> None:
    one, other = (gpt_state(tiny("precision.regime=fp32")) for _ in range(2))
    assert torch.equal(one.flat.values, other.flat.values)
    assert one.flat.values.data_ptr() != other.flat.values.data_ptr()


@pytest.mark.parametrize("values", [[-3.0, 2.0], [1.0, 5.0], [0.0, -0.0], [-7.0]])
def test_largest_magnitude_is_the_infinity_norm(values: list[float]) -> None:
    x = torch.tensor(values)
    assert largest_magnitude(x) == torch.linalg.vector_norm(x, torch.inf)


def test_largest_magnitude_hides_no_nan_and_no_inf() -> None:
    assert largest_magnitude(torch.tensor([1.0, torch.nan, torch.inf])).isnan()
    assert largest_magnitude(torch.tensor([1.0, -torch.inf])) == torch.inf
