"""BatchNorm's running statistics: committed with the weights, saved, restored, and moved by no other pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from altgrad_cli.checkpoints.file import VerifiedCheckpoint, content_hash, read_checkpoint, write_checkpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError
from altgrad_cli.subjects.subject import Batch, Subject
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Evaluated, RunEnded, StepCompleted
from altgrad_cli.training.passes.compiled import find_pass
from altgrad_cli.training.passes.eager import evaluation_loss, run_pass, shadow_pass
from altgrad_cli.training.state import build_state
from altgrad_cli.training.step import commit_step, compute_step
from altgrad_cli.training.streams import Streams
from altgrad_cli.training.tracing import trace_step
from altgrad_cli.updates.schedule import learning_rate_at
from tests.training.test_subject import without_times

Tiny = Callable[..., TrainConfig]


def build(generator: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def draw(generator: torch.Generator) -> Batch:
    x = torch.randn(8, 6, generator=generator) + 1
    return Batch(x=x, y=x[:, :3] * x[:, 3:])


NORMALISED = Subject(build, F.mse_loss, draw, draw)


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_in_float32_losses_and_statistics_are_those_of_torchs_own_loop(tiny: Tiny) -> None:
    config = tiny("precision.regime=fp32", "optimizer.weight_decay=0", "max_steps=6")
    events = list(train(config, subject=NORMALISED))
    losses = [event.metrics["loss"] for event in events if isinstance(event, StepCompleted)]
    validation = [event.validation_loss for event in events if isinstance(event, Evaluated)][-1]

    streams = Streams(config.seed)
    held_out = [draw(g) for g in [streams["evaluation"]] for _ in range(config.runtime.evaluation_batches)]
    torch.manual_seed(streams["init"].initial_seed())
    model, expected = build(streams["init"]), []
    beta = config.optimizer.betas
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=beta, eps=config.optimizer.eps, weight_decay=0, foreach=False
    )
    for step in range(1, 7):
        optimizer.param_groups[0]["lr"] = learning_rate_at(config, step)
        batch = draw(streams["data"])
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch.x), batch.y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected
    model.eval()
    with torch.no_grad():
        mean = sum(F.mse_loss(model(batch.x), batch.y).double() for batch in held_out) / len(held_out)
    assert validation == float(mean)


def test_no_pass_but_a_committed_step_moves_them(tiny: Tiny) -> None:
    state = build_state(tiny("precision.regime=standard", "fp8_format=E3M4"), NORMALISED)
    batch = draw(state.streams["data"])
    fresh = buffers(state.model)
    result = run_pass(state, batch)
    assert same(buffers(state.model), fresh) and not same(dict(result.buffers_after), fresh)
    shadow_pass(state, batch)
    trace_step(state, batch)
    evaluation_loss(state, [batch])
    assert same(buffers(state.model), fresh)
    assert all(module.training for module in state.model.modules())
    commit_step(state, compute_step(state, batch))
    assert same(buffers(state.model), dict(result.buffers_after))
    assert int(state.model[1].num_batches_tracked) == 1


def test_a_step_that_is_not_finite_leaves_them_as_they_were(tiny: Tiny) -> None:
    state = build_state(tiny("precision.regime=standard"), NORMALISED)
    batch = draw(state.streams["data"])
    batch.x[0, 0] = torch.nan
    fresh = buffers(state.model)
    step = compute_step(state, batch)
    assert not step.finite and bool(step.result.buffers_after["1.running_mean"].isnan().any())
    commit_step(state, step)
    assert same(buffers(state.model), fresh) and state.step == 1


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_measuring_changes_no_bit(tiny: Tiny, tmp_path: Path, regime: str) -> None:
    settings = (f"precision.regime={regime}", "fp8_format=E3M4")
    alone = ("use_shadow=false", "monitors.enabled=false")
    watched = (*settings, "use_shadow=true", "runtime.capture_at=[3]", "diagnostic_interval=2")
    ends = []
    for name, overrides in (("watched", watched), ("alone", (*settings, *alone))):
        list(train(tiny(*overrides), subject=NORMALISED, run_dir=tmp_path / name))
        ends.append(read_checkpoint(tmp_path / name / "checkpoints/step_000008.pt"))
    assert all(same(ends[0][part], ends[1][part]) for part in ("weights", "buffers"))
    assert int(ends[0]["buffers"]["1.num_batches_tracked"]) == 8


def test_a_run_resumes_with_them_bit_for_bit_and_not_without(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("fp8_format=E3M4")
    whole = list(train(config, subject=NORMALISED, run_dir=tmp_path / "whole"))
    assert isinstance(whole[-1], RunEnded) and whole[-1].outcome == "completed"
    middle = tmp_path / "whole/checkpoints/step_000006.pt"
    saved = VerifiedCheckpoint.read(middle)
    rest = list(train(config, subject=NORMALISED, run_dir=tmp_path / "rest", resume_from=saved))
    _, *again = without_times(rest)
    assert again == without_times(whole)[-len(again) :]
    ends = [tmp_path / name / "checkpoints/step_000008.pt" for name in ("whole", "rest")]
    assert len({content_hash(read_checkpoint(path)) for path in ends}) == 1

    payload = read_checkpoint(middle)
    del payload["buffers"]["1.running_var"]
    write_checkpoint(tmp_path / "less.pt", payload)
    with pytest.raises(CheckpointError, match=r"its buffers are others \(1\.running_var\)"):
        next(train(config, subject=NORMALISED, resume_from=VerifiedCheckpoint.read(tmp_path / "less.pt")))


def test_a_checkpoint_of_a_network_without_any_says_nothing_of_them(tiny: Tiny, tmp_path: Path) -> None:
    list(train(tiny("max_steps=3"), run_dir=tmp_path))
    assert "buffers" not in read_checkpoint(tmp_path / "checkpoints/step_000003.pt")


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, generator: torch.Generator) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3))


@pytest.mark.parametrize("subject", [NORMALISED, Subject(Unhashable(), F.mse_loss, draw, draw)])
def test_what_cannot_be_compiled_runs_eagerly(
    tiny: Tiny, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("altgrad_cli.training.passes.compiled.missing_compiler", lambda: None)
    settings = ("precision.regime=standard", "precision.scaling.recipe=amax")
    losses = []
    for extra in ("runtime.compile=true", "runtime.compile=false"):
        config = tiny(*settings, extra)
        state = build_state(config, subject)
        assert find_pass(state, state.plan, {}, draw(torch.Generator())) is None
        losses.append([e.metrics["loss"] for e in train(config, subject=subject) if e.kind == "step"])
    assert losses[0] == losses[1]
