"""The candidate AdamW against torch.optim.AdamW, bit for bit."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.updates.adamw import adamw_candidate


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("length", [1, 7, 4096, 70_001])
def test_ten_steps_equal_torchs_own(decay: float, length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.nn.Parameter(torch.randn(length, generator=generator))
    optimizer = torch.optim.AdamW(
        [reference], lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay, foreach=False
    )
    values = reference.detach().clone()
    m, v = torch.zeros_like(values), torch.zeros_like(values)
    for step in range(1, 11):
        gradient = torch.randn(length, generator=generator) * 10.0 ** (-step)
        out = (torch.empty_like(values), torch.empty_like(values), torch.empty_like(values))
        before = values.clone()
        adamw_candidate(
            values, gradient, m, v, out,
            step=step, learning_rate=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay,
        )  # fmt: skip
        assert torch.equal(values, before), "a candidate must leave the parameters alone"
        reference.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(out[0], reference.detach())
        assert torch.equal(out[1], optimizer.state[reference]["exp_avg"])
        assert torch.equal(out[2], optimizer.state[reference]["exp_avg_sq"])
        values, m, v = out


def test_a_non_finite_gradient_reaches_the_candidate_and_not_the_state() -> None:
    values, m, v = torch.ones(3), torch.zeros(3), torch.zeros(3)
    out = (torch.empty(3), torch.empty(3), torch.empty(3))
    gradient = torch.tensor([1.0, torch.nan, torch.inf])
    adamw_candidate(
        values,
        gradient,
        m,
        v,
        out,
        step=1,
        learning_rate=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
    )
    assert out[0][0].isfinite() and out[0][1].isnan() and not out[0][2].isfinite()
    assert torch.equal(values, torch.ones(3)) and torch.equal(m, torch.zeros(3))
