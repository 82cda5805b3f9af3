"""A loop is not changed by being watched: bit for bit, with every optimizer and habit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from altgrad_cli import observe
from altgrad_cli.errors import UsageError
from tests.observing.loops import Make, batch, network, plain_loop

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, foreach=False),
    "adamw_foreach": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, foreach=True),
    "adamw_fused": lambda model: torch.optim.AdamW(model.parameters(), 1e-2, fused=True),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), 1e-2),
    "groups": lambda model: torch.optim.AdamW(
        [
            {"params": model[0].parameters(), "lr": 1e-3},
            {"params": model[2:].parameters(), "weight_decay": 0.5},
        ]  # type: ignore[index]
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_losses_and_weights_are_those_without(name: str, tmp_path: Path) -> None:
    plain, watched = network(), network()
    expected = plain_loop(plain, OPTIMIZERS[name](plain), 20, clip=0.5)
    optimizer = OPTIMIZERS[name](watched)
    with observe(watched, optimizer, regime="fp32", run_dir=tmp_path / "run") as lab:
        found = plain_loop(watched, optimizer, 20, clip=0.5)
        assert lab.metrics["loss"] == found[-1]
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


class Habits(nn.Module):
    """Tied weights, dropout, BatchNorm, a frozen layer, gradient checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.norm, self.drop = nn.Embedding(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1)
        self.frozen, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.frozen.requires_grad_(False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(self.norm(self.frozen(self.embed(x).mean(1))))
        return self.head(checkpoint(lambda h: F.gelu(self.body(h)), h, use_reentrant=False))


def habitual_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Accumulation, bf16 autocast, evaluation between, an exception in the middle of a step."""
    losses: list[float] = []
    torch.manual_seed(7)
    for step in range(8):
        generator = torch.Generator().manual_seed(step)
        for _ in range(3):
            x, y = (torch.randint(8, shape, generator=generator) for shape in ((5, 4), (5,)))
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), y) / 3
            loss.backward()
            losses.append(loss.item())
        if step == 4:
            with contextlib.suppress(ZeroDivisionError):
                model(x).sum().backward()
                raise ZeroDivisionError
            optimizer.zero_grad()
            continue
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            losses.append(model(x).sum().item())
        model.train()
    return losses


def test_habits_of_loops_are_left_alone() -> None:
    plain, watched = Habits(), Habits()
    expected = habitual_loop(plain, torch.optim.AdamW(plain.parameters(), 1e-2))
    optimizer = torch.optim.AdamW(watched.parameters(), 1e-2)
    with observe(watched, optimizer, regime="fp32"):
        assert habitual_loop(watched, optimizer) == expected


def test_close_gives_the_model_back() -> None:
    model, plain = network(), network()
    before = [id(each) for each in (*model.modules(), *model.parameters())]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    backward = torch.autograd.backward
    lab = observe(model, optimizer, precision="e4m3")
    assert not torch.equal(model(batch(0)[0]), plain(batch(0)[0]))
    lab.close()
    assert torch.autograd.backward is backward
    assert [id(each) for each in (*model.modules(), *model.parameters())] == before
    assert not any("forward" in each.__dict__ or each._forward_hooks for each in model.modules())
    assert not model._forward_pre_hooks and not optimizer._optimizer_step_pre_hooks
    assert torch.equal(model(batch(0)[0]), plain(batch(0)[0]))


def test_a_refusal_leaves_the_model_alone() -> None:
    model = network().double()
    with pytest.raises(UsageError, match="float64"):
        observe(model, torch.optim.SGD(model.parameters(), 0.1))
    assert not any("forward" in each.__dict__ for each in model.modules())


def test_a_compiled_model_runs_eagerly_and_says_so() -> None:
    plain, inner = network(), network()
    expected = plain_loop(plain, torch.optim.SGD(plain.parameters(), 0.1), 3)
    compiled: Callable[..., object] = torch.compile(inner, backend="eager")
    optimizer = torch.optim.SGD(inner.parameters(), 0.1)
    with pytest.warns(UserWarning, match="runs eagerly"), observe(compiled, optimizer, regime="fp32"):  # type: ignore[arg-type]
        assert plain_loop(compiled, optimizer, 3) == expected  # type: ignore[arg-type]
