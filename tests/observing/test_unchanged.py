"""A loop is not changed by being watched: bit for bit, with every optimizer and habit."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from altgrad_cli import observe
from altgrad_cli.errors import UsageError
from tests.observing.habits import ONE_BY_ONE, OPTIMIZERS, Model, habitual_loop
from tests.observing.loops import batch, network

MATRIX = sorted(product(ONE_BY_ONE, OPTIMIZERS))
SHORT = [(habit, [*OPTIMIZERS][number % len(OPTIMIZERS)]) for number, habit in enumerate(ONE_BY_ONE)]


def check(habit: str, name: str, steps: int, run: Path) -> None:
    """Losses, weights, buffers, optimizer state and random numbers are those without, captures or not."""
    plain, watched = Model(ONE_BY_ONE[habit]), Model(ONE_BY_ONE[habit])
    optimizers = OPTIMIZERS[name](plain), OPTIMIZERS[name](watched)
    expected, drawn = habitual_loop(plain, optimizers[0], steps), torch.rand(4)
    captures = ["runtime.capture_at=[3,8]"]
    with observe(watched, optimizers[1], regime="fp32", run_dir=run, settings=captures) as lab:
        found = habitual_loop(watched, optimizers[1], steps)
        assert torch.equal(torch.rand(4), drawn)
        assert lab.metrics["step"] > steps // 2
    assert found == expected and len(found) >= steps * 3 // 4
    assert equal(plain.state_dict(), watched.state_dict())
    assert equal(optimizers[0].state_dict(), optimizers[1].state_dict())
    assert (run / "checkpoints" / "anomaly_step_3.pt").exists()


def equal(one: object, other: object) -> bool:
    """Of nests of tensors and plain values."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and [*one] == [*other] and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(("habit", "name"), SHORT)
def test_a_loop_is_left_alone(habit: str, name: str, tmp_path: Path) -> None:
    check(habit, name, 12, tmp_path / "run")


@pytest.mark.campaign
@pytest.mark.parametrize(("habit", "name"), MATRIX)
def test_fifty_steps_of_every_habit_with_every_optimizer(habit: str, name: str, tmp_path: Path) -> None:
    check(habit, name, 50, tmp_path / "run")


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
