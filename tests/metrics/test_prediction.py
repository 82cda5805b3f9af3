"""The predicted stall against simulation: random updates are made and rounded, and the stalls counted."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.formats.analysis import adam_update_deviation
from altgrad_cli.metrics.stall import (
    first_step_stall_rate,
    predicted_stall_rate,
    room_to_move,
)
from altgrad_cli.rounding.quantize import round_to_grid

STUDY_FORMATS = ("E0M7", "E1M6", "E3M4", "E5M2", "E7M0")
LR = 6e-4


def stored_weights(name, size=40_000, std=0.02, seed=0):
    """Normal weights on the grid, at the power-of-two scale of the design."""
    fmt = FORMAT_REGISTRY[name]
    w = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * std
    scale = 1.0
    if name != "E7M0":
        scale = 2.0 ** math.ceil(math.log2(1.25 * w.abs().max().item() / fmt.max_representable_value))
    return fmt, scale, round_to_grid(w, fmt, scale)


def test_room_of_single_weights():
    fmt = FORMAT_REGISTRY["E5M2"]
    up, down = room_to_move(torch.tensor([1.0, -1.0, 1.25, 57344.0, 0.0]), fmt)
    assert up.tolist() == [0.125, 0.0625, 0.125, math.inf, 2.0**-17]
    assert down.tolist() == [0.0625, 0.125, 0.125, 4096.0, 2.0**-17]
    up, down = room_to_move(torch.tensor([1.0]), FORMAT_REGISTRY["E7M0"])
    assert (up.item(), down.item()) == (0.5, 0.25)


def test_room_off_the_grid_ends_at_the_same_edges():
    up, down = room_to_move(torch.tensor([1.05]), FORMAT_REGISTRY["E5M2"])
    assert up.item() == pytest.approx(0.075, abs=1e-6)
    assert down.item() == pytest.approx(0.1125, abs=1e-6)


@pytest.mark.parametrize("name", STUDY_FORMATS)
def test_prediction_agrees_with_simulated_updates(name):
    fmt, scale, w = stored_weights(name)
    dw = torch.randn(w.shape, generator=torch.Generator().manual_seed(9)) * adam_update_deviation(LR, 0.9)
    observed = (round_to_grid(w + dw, fmt, scale) == w).double().mean().item()
    assert predicted_stall_rate(w, fmt, scale, LR).item() == pytest.approx(observed, abs=0.01)


@pytest.mark.parametrize("name", STUDY_FORMATS)
def test_first_step_is_predicted_exactly(name):
    fmt, scale, w = stored_weights(name)
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(10))
    observed = (round_to_grid(w - LR * g.sign(), fmt, scale) == w).double().mean().item()
    assert first_step_stall_rate(w, fmt, scale, LR, g).item() == pytest.approx(observed, abs=1e-4)
    assert first_step_stall_rate(w, fmt, scale, LR).item() == pytest.approx(observed, abs=0.01)


def test_first_step_of_stochastic_rounding():
    fmt, scale, w = stored_weights("E5M2")
    generator = torch.Generator().manual_seed(11)
    g = torch.randn(w.shape, generator=generator)
    after = round_to_grid(w - LR * g.sign(), fmt, scale, rounding="stochastic", generator=generator)
    observed = (after == w).double().mean().item()
    predicted = first_step_stall_rate(w, fmt, scale, LR, g, rounding="stochastic").item()
    assert predicted == pytest.approx(observed, abs=0.01)


def test_weights_without_a_gradient_take_no_part():
    fmt = FORMAT_REGISTRY["E5M2"]
    w, g = torch.tensor([1.0, 1e-3]), torch.tensor([0.0, 1.0])
    assert first_step_stall_rate(w, fmt, 2.0**-16, 1e-3, g).item() == 0.0


def test_a_tie_stays_where_the_code_is_even():
    fmt = FORMAT_REGISTRY["E7M0"]  # 1.0 has code 63, odd; 2.0 has code 64
    w, g = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])
    stays = [
        first_step_stall_rate(w[i : i + 1], fmt, 1.0, rate, g[:1]).item() for i, rate in ((0, 0.25), (1, 0.5))
    ]
    rounded = [round_to_grid(torch.tensor([x]), fmt).item() == y for x, y in ((0.75, 1.0), (1.5, 2.0))]
    assert stays == [float(same) for same in rounded] == [0.0, 1.0]


def test_nan_weights_give_nan():
    fmt = FORMAT_REGISTRY["E5M2"]
    w = torch.tensor([1.0, math.nan])
    assert math.isnan(predicted_stall_rate(w, fmt, 1.0, LR))
    assert math.isnan(first_step_stall_rate(w, fmt, 1.0, LR))


def test_a_wide_format_fits_too():
    fmt = FORMAT_REGISTRY["BF16"]
    w = round_to_grid(torch.randn(2000, generator=torch.Generator().manual_seed(12)) * 0.02, fmt)
    dw = torch.full_like(w, 1e-5)
    observed = (round_to_grid(w - dw, fmt) == w).double().mean().item()
    assert first_step_stall_rate(w, fmt, 1.0, 1e-5, dw).item() == pytest.approx(observed, abs=2e-3)
