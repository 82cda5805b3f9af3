"""The candidate AdamW against torch.optim.AdamW, bit for bit."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.updates.adamw import AdamState, adamw_candidate


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("length", [1, 7, 4096, 70_001])
def test_ten_steps_equal_torchs_own(decay: float, length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.nn.Parameter(torch.randn(length, generator=generator))
    optimizer = torch.optim.AdamW(
        [reference], lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay, foreach=False
    )
    values, state = reference.detach().clone(), AdamState.zeros_like(reference.detach())
    for step in range(1, 11):
        gradient = torch.randn(length, generator=generator) * 10.0 ** (-step)
        out, out_state = torch.empty_like(values), AdamState.zeros_like(values)
        before = values.clone()
        adamw_candidate(
            values, gradient, state, out, out_state,
            step=step, learning_rate=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay,
        )  # fmt: skip
        assert torch.equal(values, before), "a candidate must leave the parameters alone"
        reference.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(out, reference.detach())
        assert torch.equal(out_state.m, optimizer.state[reference]["exp_avg"])
        assert torch.equal(out_state.v, optimizer.state[reference]["exp_avg_sq"])
        values, state = out, out_state


def test_a_non_finite_gradient_reaches_the_candidate_and_not_the_state() -> None:
    values, state = torch.ones(3), AdamState.zeros_like(torch.ones(3))
    out, out_state = torch.empty(3), AdamState.zeros_like(values)
    gradient = torch.tensor([1.0, torch.nan, torch.inf])
    adamw_candidate(
        values,
        gradient,
        state,
        out,
        out_state,
        step=1,
        learning_rate=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
    )
    assert out[0].isfinite() and out[1].isnan() and not out[2].isfinite()
    assert torch.equal(values, torch.ones(3)) and torch.equal(state.m, torch.zeros(3))
