"""A small model and a loop of somebody's own, which these tests watch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(6, 8, generator=generator)
    return x, torch.randint(4, (6,), generator=generator)


def plain_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    first: int = 0,
    clip: float | None = None,
) -> list[float]:
    """The losses of ``steps`` steps of the most ordinary loop there is."""
    losses = []
    for step in range(first, first + steps):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


Make = Callable[[nn.Module], torch.optim.Optimizer]
