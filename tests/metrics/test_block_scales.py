"""Every measure of a weight with a scale a block is that of its block alone with one scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.rounding import grid_histograms
from altgrad_cli.metrics.stall import detect_bit_stall, room_to_move
from altgrad_cli.metrics.weights.grid import code_distance, grid_alignment_error, stiffness
from altgrad_cli.rounding.grid import operand_grid

ELEMENTS = {"E4M3@32:e8m0": "E4M3", "E2M1@16:e4m3": "E2M1", "E3M4@5x7:e8m0:ceil": "E3M4", "E0M7@col": "E0M7"}


def moved(weights: Tensor) -> Tensor:
    return weights * 1.1 + 1e-3


EACH: dict[str, Callable[[Tensor, str, float | Tensor], Tensor]] = {
    "stiffness": stiffness,
    "grid error": grid_alignment_error,
    "ulp": lambda w, format, scale: code_distance(w, moved(w), format, scale),
    "room up": lambda w, format, scale: room_to_move(w, format, scale)[0],
    "room down": lambda w, format, scale: room_to_move(w, format, scale)[1],
}


@pytest.mark.parametrize("measure", EACH)
@pytest.mark.parametrize("name", ELEMENTS)
def test_a_measure_of_each_weight_is_that_in_its_own_block(name: str, measure: str) -> None:
    weights, scales = block_weights(name)
    together = EACH[measure](weights, name, scales)
    assert scales.unique().numel() > 2
    for scale in scales.unique().tolist():
        inside = scales == scale
        alone = EACH[measure](weights[inside], ELEMENTS[name], scale)
        assert torch.equal(together[inside].double(), alone.double())


@pytest.mark.parametrize("name", ELEMENTS)
def test_shares_and_histograms_are_sums_over_the_blocks(name: str) -> None:
    weights, scales = block_weights(name)
    gradient = torch.randn(weights.shape, generator=torch.Generator().manual_seed(2))
    histogram = grid_histograms([weights], parse_format(name), [scales])[0]
    stalled, summed = 0.0, torch.zeros_like(histogram)
    for scale in scales.unique().tolist():
        inside = scales == scale
        found = detect_bit_stall(weights[inside], gradient[inside], 0.003, ELEMENTS[name], scale)
        stalled += found[0]
        summed += grid_histograms([weights[inside]], parse_format(ELEMENTS[name]), [scale])[0]
    assert detect_bit_stall(weights, gradient, 0.003, name, scales)[0] == stalled
    assert 0 < stalled < weights.numel()
    assert torch.equal(histogram, summed)


def block_weights(name: str) -> tuple[Tensor, Tensor]:
    """Weights on the grid of ``name``, in columns of different magnitude, and the scale of each."""
    x = torch.randn(20, 48, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 0, 48)
    grid = operand_grid(parse_format(name), "amax")
    scales = grid.scales(x)
    return grid.round(x, scales), grid.spread(scales, x.shape).float().expand(x.shape)
