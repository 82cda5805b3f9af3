"""Every update rule in the engine: stopped and resumed, in every regime, refused for another's memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.config.update_rules import RULES
from altgrad_cli.errors import CheckpointError
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Event, StepCompleted
from tests.small import small

RULE_NAMES = [*RULES, "torch.optim.NAdam", "torch.optim.Adafactor"]


def steps(events: list[Event]) -> list[tuple[object, ...]]:
    """What training itself did in each step."""
    return [
        (
            event.step,
            event.metrics["loss"],
            event.metrics["update_norm"],
            event.metrics.get("update_transfer"),
        )
        for event in events
        if isinstance(event, StepCompleted)
    ]


def run_until(config: TrainConfig, step: int, folder: Path) -> VerifiedCheckpoint:
    """The checkpoint that a run leaves which is stopped after ``step``."""
    asked = iter(range(1, step + 1))
    list(train(config, run_dir=folder, stop_requested=lambda: next(asked) == step))
    return VerifiedCheckpoint.read(max((folder / "checkpoints").glob("step_*.pt")))


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_resumed_in_the_middle_it_is_the_same_run(rule: str, tmp_path: Path) -> None:
    config = small(f"optimizer.rule={rule}", "fp8_format=E7M0", "optimizer.residual=E4M3")
    straight = steps(list(train(config)))
    saved = run_until(config, 5, tmp_path / "stopped")
    assert steps(list(train(config, run_dir=tmp_path / "again", resume_from=saved))) == straight[5:]
    assert len(straight) == 8


@pytest.mark.parametrize("regime", ["fp32", "standard", "frozen"])
@pytest.mark.parametrize(
    "rule", ["sgd", "lion", "compensated", "eco", "stiff_gradient", "code_step", "madam"]
)
def test_every_rule_trains_in_every_regime(rule: str, regime: str) -> None:
    events = list(train(small(f"optimizer.rule={rule}", f"precision.regime={regime}", "max_steps=2")))
    assert all(math.isfinite(loss) for _, loss, _, _ in steps(events))


@pytest.mark.parametrize("rule", ["compensated", "eco"])
def test_where_nothing_is_stored_on_a_grid_nothing_is_lost_and_the_rule_is_its_base(rule: str) -> None:
    runs = [
        steps(list(train(small(f"optimizer.rule={name}", "precision.regime=standard"))))
        for name in (rule, "adamw")
    ]
    assert runs[0] == runs[1]


def test_the_rules_give_the_stored_weights_different_steps() -> None:
    """So that a rule which nothing reads would be seen."""
    ends = {
        rule: tuple(steps(list(train(small(f"optimizer.rule={rule}", "fp8_format=E7M0"))))[-1])
        for rule in RULES
    }
    assert len(set(ends.values())) == len(RULES)


def test_the_memory_of_another_rule_is_refused_by_name(tmp_path: Path) -> None:
    saved = run_until(small("optimizer.rule=lion"), 2, tmp_path)
    with pytest.raises(CheckpointError, match="rule=lion, not of compensated"):
        list(train(small("optimizer.rule=compensated"), resume_from=saved))
