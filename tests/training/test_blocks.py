"""Blocks in training: they train, measure, are written and read back."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.formats import parse_format
from altgrad_cli.rounding import grid
from altgrad_cli.rounding.quantize import quantize
from altgrad_cli.training.saving.snapshot import restore_snapshot, take_snapshot
from tests.training.states import gpt_state, take_step
from tests.training.test_state import Tiny


def test_each_row_is_rounded_as_if_it_were_alone() -> None:
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-6], [1], [30], [0]]
    )
    alone = grid.operand_grid(parse_format("E3M4"), "amax")
    expected = [quantize(row, "E3M4", alone.scales(row)) for row in x]
    assert torch.equal(quantize(x, "e3m4@row"), torch.stack(expected))


def test_stored_rows_keep_and_leave_their_scales_one_by_one() -> None:
    stored, alone = grid.stored_grid(parse_format("E3M4@row")), grid.stored_grid(parse_format("E3M4"))
    before, after = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[1.1], [9.0], [0.01]])
    scales = stored.stored_scales(before)
    moved = stored.stored_scales(after, scales)
    by_row = [
        float(alone.stored_scales(row, scale)) for row, scale in zip(after, scales.flatten(), strict=True)
    ]
    assert moved.flatten().tolist() == by_row
    assert (moved == scales).flatten().tolist() == [True, False, False]
    assert stored.stored_scales(before, scales) is scales


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_a_run_of_rows_is_on_their_grid_and_survives_a_checkpoint(tiny: Tiny, regime: str) -> None:
    config = tiny("fp8_format=E3M4@row", f"precision.regime={regime}")
    state, other = gpt_state(config), gpt_state(config)
    for step in range(2):
        result, _ = take_step(state, seed=step)
    restore_snapshot(other, take_snapshot(state, {}))
    assert torch.equal(other.flat.values, state.flat.values)
    for index, view in enumerate(state.flat.linear_views(state.flat.values)):
        scales, again = state.stored_scales[index], other.stored_scales[index]
        if regime == "standard":
            assert scales is None
            assert result.scales_used[index, 0].shape == (view.shape[0], 1)
            continue
        assert scales is not None
        assert again is not None
        assert torch.equal(scales, again)
        assert scales.unique().numel() > 1
        assert torch.equal(quantize(view, "E3M4", scales), view)
    first, second = (take_step(each, seed=9)[0] for each in (state, other))
    assert torch.equal(first.gradient, second.gradient)
