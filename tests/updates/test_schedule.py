"""The learning rate against its closed forms and torch's own cosine."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.updates.schedule import learning_rate_at

Tiny = Callable[..., TrainConfig]


def config_for(
    tiny: Tiny, schedule: str, warmup: int = 10, steps: int = 110, floor: float = 0.1
) -> TrainConfig:
    return tiny(
        "learning_rate=2e-3",
        f"max_steps={steps}",
        f"optimizer.schedule={schedule}",
        f"optimizer.warmup_steps={warmup}",
        f"optimizer.min_learning_rate_ratio={floor}",
    )


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_warm_up_is_linear_and_reaches_the_peak(tiny: Tiny, schedule: str) -> None:
    config = config_for(tiny, schedule)
    for step in range(1, 11):
        assert learning_rate_at(config, step) == pytest.approx(2e-3 * step / 10, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_warm_up_the_first_step_has_the_full_rate(tiny: Tiny, warmup: int) -> None:
    assert learning_rate_at(config_for(tiny, "constant", warmup), 1) == 2e-3


def test_a_constant_rate_stays(tiny: Tiny) -> None:
    config = config_for(tiny, "constant")
    assert {learning_rate_at(config, step) for step in range(10, 200)} == {2e-3}


def test_the_linear_schedule_falls_to_its_floor(tiny: Tiny) -> None:
    config = config_for(tiny, "linear")
    for step in range(10, 111):
        left = 1 - (step - 10) / 100
        assert learning_rate_at(config, step) == pytest.approx(2e-3 * (0.1 + 0.9 * left), rel=1e-12)


def test_the_cosine_schedule_is_torchs_annealing(tiny: Tiny) -> None:
    config = config_for(tiny, "cosine")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2e-3)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=2e-4)
    for step in range(10, 111):
        assert learning_rate_at(config, step) == pytest.approx(annealing.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        annealing.step()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_last_step_has_the_floor_and_it_stays_beyond(tiny: Tiny, schedule: str, floor: float) -> None:
    config = config_for(tiny, schedule, floor=floor)
    for step in (110, 111, 500):
        assert learning_rate_at(config, step) == pytest.approx(2e-3 * floor, abs=1e-18)
    assert learning_rate_at(config, 60) == pytest.approx(2e-3 * (floor + (1 - floor) / 2), rel=1e-9)


def test_a_warm_up_longer_than_the_run_never_divides_by_zero(tiny: Tiny) -> None:
    config = config_for(tiny, "cosine", warmup=200, steps=110)
    assert learning_rate_at(config, 110) == pytest.approx(2e-3 * 110 / 200)
    assert math.isfinite(learning_rate_at(config_for(tiny, "linear", warmup=110, steps=110), 110))
