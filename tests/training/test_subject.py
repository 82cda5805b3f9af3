"""A stranger's model through the engine: other layer names, numbers instead of text, torch's own loss."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from altgrad_cli.checkpoints.file import VerifiedCheckpoint, content_hash, read_checkpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.runs.record import build_record
from altgrad_cli.subjects.subject import Batch, Subject
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    RunEnded,
    RunStarted,
    StepCompleted,
    event_from_json,
    event_to_json,
)
from altgrad_cli.training.passes.compiled import find_pass
from altgrad_cli.training.passes.eager import run_pass
from altgrad_cli.training.state import build_state
from altgrad_cli.training.step import commit_step, compute_step
from altgrad_cli.training.streams import Streams
from altgrad_cli.updates.schedule import learning_rate_at

Tiny = Callable[..., TrainConfig]
STEPS = 10


class Stranger(nn.Module):
    """Six numbers in, three out; the head is not the last that is registered, and there are biases."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.answer = nn.Linear(16, 3)
        self.entrance = nn.Linear(6, 16)
        self.core = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.answer(self.core(F.relu(self.entrance(x))))
        return result


def draw(generator: torch.Generator) -> Batch:
    x = torch.randn(8, 6, generator=generator)
    return Batch(x=x, y=torch.stack([x[:, 0] * x[:, 1], x.sum(1), x[:, 2].abs()], 1))


def kind(name: str) -> LayerKind:
    return "head" if name == "answer" else "hidden"


def stranger(dropout: float = 0.0) -> Subject:
    """Its weights come from torch's default stream, as they do where nobody thought of streams."""
    return Subject(lambda generator: Stranger(dropout), F.mse_loss, draw, draw, kind)


def ten_steps(tiny: Tiny, *overrides: str) -> TrainConfig:
    settings = ("fp8_format=E4M3", "diagnostic_interval=4", "learning_rate=0.01", "log_ulp=true")
    return tiny(f"max_steps={STEPS}", *settings, "runtime.checkpoint_interval=5", *overrides)


def without_times(events: list[Event]) -> list[str]:
    """repr: NaN equals itself, and 0.0 is not -0.0."""
    for event in events:
        if isinstance(event, StepCompleted):
            event.metrics.pop("tokens_per_second", None)  # type: ignore[attr-defined]
    return [repr(event) for event in events if not isinstance(event, CheckpointSaved)]


@pytest.mark.parametrize("regime", ["uniform", "standard"])
def test_ten_steps_with_events_and_a_checkpoint_from_which_they_resume(
    tiny: Tiny, tmp_path: Path, regime: str
) -> None:
    config = ten_steps(tiny, f"precision.regime={regime}", "precision.rounding=stochastic_all")
    whole = list(train(config, subject=stranger(0.1), run_dir=tmp_path / "whole"))
    assert isinstance(whole[0], RunStarted) and whole[0].layers == ["entrance", "core.0", "answer"]
    assert whole[0].corpus == {}
    stored = [row["layer"] for row in whole[0].precision if "stored_weights" in row["roles"]]
    assert stored == (["entrance", "core.0"] if regime == "uniform" else [])
    steps = [event for event in whole if isinstance(event, StepCompleted)]
    assert [event.step for event in steps] == list(range(1, STEPS + 1))
    assert all(event.committed for event in steps)
    assert all(len(values) == 3 for event in steps for values in event.layers.values())
    assert isinstance(whole[-1], RunEnded) and whole[-1].outcome == "completed"
    lines = [event_to_json(event) for event in whole]
    assert repr([event_to_json(event_from_json(line)) for line in lines]) == repr(lines)

    middle = tmp_path / "whole/checkpoints/step_000005.pt"
    rest = list(
        train(
            config,
            subject=stranger(0.1),
            run_dir=tmp_path / "rest",
            resume_from=VerifiedCheckpoint.read(middle),
        )
    )
    _, *again = without_times(rest)
    assert again == without_times(whole)[-len(again) :]
    ends = [tmp_path / name / "checkpoints/step_000010.pt" for name in ("whole", "rest")]
    assert len({content_hash(read_checkpoint(path)) for path in ends}) == 1


def test_in_float32_its_losses_are_those_of_torchs_own_loop(tiny: Tiny) -> None:
    config = ten_steps(tiny, "precision.regime=fp32", "optimizer.weight_decay=0.1")
    losses = [
        event.metrics["loss"]
        for event in train(config, subject=stranger())
        if isinstance(event, StepCompleted)
    ]
    streams = Streams(config.seed)
    torch.manual_seed(streams["init"].initial_seed())
    model = Stranger(0.0)
    decayed = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": p, "weight_decay": decay} for p, decay in zip(decayed, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(
        groups, betas=config.optimizer.betas, eps=config.optimizer.eps, foreach=False
    )
    expected = []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, step)
        batch = draw(streams["data"])
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch.x), batch.y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected


def test_a_fault_in_its_numbers_is_found_where_it_was_planted(tiny: Tiny, tmp_path: Path) -> None:
    config = ten_steps(tiny, "precision.regime=standard", "inject=[nan@3:data]")
    events = list(train(config, subject=stranger(), run_dir=tmp_path))
    assert isinstance(events[-1], RunEnded) and events[-1].outcome == "collapsed"
    assert events[-1].reason == "non-finite from step 3: x of batch became nan in the state phase"
    saved = read_checkpoint(tmp_path / "checkpoints/anomaly_step_3.pt")
    assert int(saved["batch"]["x"].isnan().sum()) == 1


def test_a_hidden_layer_with_a_shared_weight_is_refused(tiny: Tiny) -> None:
    def tied(generator: torch.Generator) -> nn.Module:
        model = Stranger(0.0)
        model.core.append(nn.Linear(16, 16))
        model.core[-1].weight = model.core[0].weight
        return model

    subject = Subject(tied, F.mse_loss, draw, draw, kind)
    with pytest.raises(UsageError, match=r"core\.0 shares its weight"):
        build_state(tiny(), subject)


@pytest.mark.campaign
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on this machine")
@pytest.mark.filterwarnings("default")  # torch's own compiler warns about its internals
def test_its_compiled_pass_is_near_the_eager_one(tiny: Tiny) -> None:
    config = ten_steps(tiny, "precision.regime=standard", "runtime.compile=true")
    state = build_state(config, stranger(0.1))
    first, batch = draw(state.streams["data"]), draw(state.streams["data"])
    commit_step(state, compute_step(state, first))  # scales are known from now on
    scales = state.scales.current(state.plan, config)
    assert find_pass(state, state.plan, scales, batch) is not None
    compiled, eager = run_pass(state, batch), run_pass(state, batch, tap=lambda layer, role, x: x)
    assert float(compiled.loss) == pytest.approx(float(eager.loss), rel=1e-4)
    assert (compiled.gradient - eager.gradient).norm() < 0.05 * eager.gradient.norm()


def test_a_fault_that_whole_numbers_cannot_carry_is_refused(tiny: Tiny) -> None:
    def whole(generator: torch.Generator) -> Batch:
        x = torch.randint(9, (8, 6), generator=generator)
        return Batch(x=x, y=x[:, :3].float())

    class Converting(Stranger):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.float())

    subject = Subject(lambda generator: Converting(0.0), F.mse_loss, whole, whole, kind)
    with pytest.raises(ConfigError, match=r"nan@3:data cannot happen") as error:
        next(train(ten_steps(tiny, "inject=[nan@3:data]"), subject=subject))
    assert "bitflip@3:data" in str(error.value.allowed)
    events = list(train(ten_steps(tiny, "inject=[bitflip@3:data]"), subject=subject))
    assert isinstance(events[-1], RunEnded) and events[-1].outcome == "completed"


def test_its_evaluations_have_no_perplexity(tiny: Tiny) -> None:
    events = list(train(ten_steps(tiny), subject=stranger()))
    assert {event.perplexity for event in events if isinstance(event, Evaluated)} == {None}


def test_its_log_says_which_layer_is_a_head(tiny: Tiny) -> None:
    lines = [event_to_json(event) for event in train(ten_steps(tiny), subject=stranger())]
    assert build_record(Path("run"), lines).kinds == {
        "entrance": "hidden",
        "core.0": "hidden",
        "answer": "head",
    }
    for row in lines[0]["precision"]:
        del row["kind"]  # as an older log has it
    older = build_record(Path("run"), lines).kinds
    assert older == {"entrance": "hidden", "core.0": "hidden", "answer": "hidden"}
