"""Habits of loops, one by one and all at once, over one small model that can have each of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.observing.loops import Make


@dataclass(frozen=True)
class Habits:
    """What a loop, or its model, does beyond the most ordinary."""

    accumulates: int = 1
    forwards: int = 1
    """Calls of the model that one backward pass goes through."""
    clips: bool = False
    autocasts: bool = False
    checkpoints: bool = False
    ties: bool = False
    freezes: bool = False
    evaluates: bool = False
    fails: bool = False
    """Some steps end in an exception: in forward, before backward, after it with its gradients kept."""


ONE_BY_ONE = {
    "ordinary": Habits(),
    "accumulation": Habits(accumulates=3),
    "several-forwards": Habits(forwards=2),
    "clipping": Habits(clips=True),
    "autocast": Habits(autocasts=True),
    "checkpointing": Habits(checkpoints=True),
    "tied": Habits(ties=True),
    "frozen": Habits(freezes=True),
    "evaluation": Habits(evaluates=True),
    "exceptions": Habits(fails=True),
    "all": Habits(3, 2, *[True] * 7),
}

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, foreach=False),
    "adamw_foreach": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, foreach=True),
    "adamw_fused": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, fused=True),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), 1e-2),
    "groups": lambda model: torch.optim.AdamW(
        [
            {"params": [each for each in model.parameters() if each.dim() >= 2], "weight_decay": 0.5},
            {"params": [each for each in model.parameters() if each.dim() < 2], "lr": 1e-3},
        ]
    ),
}


class Failure(Exception):
    """Planted by the loop."""


class Model(nn.Module):
    """An embedding, BatchNorm and dropout, two linear layers, a head."""

    def __init__(self, habits: Habits) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.habits, self.fails_now = habits, False
        self.embed, self.norm, self.drop = nn.Embedding(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1)
        self.first, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.first.requires_grad_(not habits.freezes)
        if habits.ties:
            self.head.weight = self.embed.weight

    def _inner(self, h: Tensor) -> Tensor:
        if self.fails_now:
            raise Failure
        return F.gelu(self.body(self.drop(h)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(self.embed(x).mean(1)))
        inner: Tensor
        if self.habits.checkpoints:
            inner = checkpoint(self._inner, h, use_reentrant=False)  # type: ignore[assignment]
        else:
            inner = self._inner(h)
        logits: Tensor = self.head(inner)
        return logits


def habitual_loop(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Every loss that the loop sees."""
    habits, losses = model.habits, list[float]()
    torch.manual_seed(7)
    for step in range(steps):
        fails = ("forward", "before", "after")[step // 4 % 3] if habits.fails and step % 4 == 2 else None
        with contextlib.suppress(Failure):
            for _ in range(habits.accumulates):
                model.fails_now = fails == "forward"
                try:
                    loss = loss_of(model, step)
                finally:
                    model.fails_now = False
                if fails == "before":
                    raise Failure
                loss.backward()
                losses.append(loss.item())
            if fails == "after":
                continue  # and what came back stays, for the next step
            if habits.clips:
                losses.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1).item())
            losses.append(torch.rand(()).item())  # a loop may draw from the default stream here, too
            optimizer.step()
        optimizer.zero_grad()
        if habits.evaluates:
            model.eval()
            with torch.no_grad():
                losses.append(loss_of(model, step).item())
            model.train()
    return losses


def loss_of(model: Model, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    total = torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16, enabled=model.habits.autocasts):
        for _ in range(model.habits.forwards):
            x, y = (torch.randint(8, shape, generator=generator) for shape in ((5, 4), (5,)))
            total = total + F.cross_entropy(model(x), y)
    return total / model.habits.accumulates
