"""What an observed loop computes, against a plain loop in ml_dtypes, and against altgrad's own engine."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import observe
from altgrad_cli.config.loading import load_config
from altgrad_cli.observing.lab import NonfiniteStep
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import StepCompleted
from altgrad_cli.training.streams import Streams
from altgrad_cli.updates.schedule import learning_rate_at
from tests.observing.loops import batch, network, plain_loop
from tests.small import SETTINGS

DTYPES = {"e5m2": (ml_dtypes.float8_e5m2, 57344.0), "e4m3": (ml_dtypes.float8_e4m3fn, 448.0)}


class Rounder:
    """Delayed power-of-two scales from sixteen steps' largest magnitudes, and ml_dtypes' own cast."""

    def __init__(self, name: str) -> None:
        self._dtype, self._largest = DTYPES[name]
        self._seen: deque[float] = deque(maxlen=16)

    def __call__(self, x: Tensor) -> Tensor:
        amax = max(self._seen) if self._seen else float(x.abs().max())
        self._seen.append(float(x.abs().max()))
        scale = 2.0 ** np.ceil(np.log2(max(amax, 1e-10) / self._largest))
        scaled = np.clip(x.detach().numpy() / np.float32(scale), -self._largest, self._largest)
        return torch.from_numpy(scaled.astype(self._dtype).astype(np.float32) * np.float32(scale))


class Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, rounders):  # type: ignore[no-untyped-def]
        q, a = rounders[0](w), rounders[1](x)
        ctx.save_for_backward(a, q)
        ctx.rounder = rounders[2]
        return F.linear(a, q)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        a, q = ctx.saved_tensors
        g = ctx.rounder(g)
        return g @ q, g.flatten(0, -2).T @ a.flatten(0, -2), None


class PlainLinear(nn.Module):
    """A linear layer, or a Conv1D of Transformers, written once more."""

    def __init__(self, layer: nn.Module, name: str, *, turned: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.turned = layer.weight, layer.bias, turned
        self.rounders = [Rounder(name) for _ in range(3)]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.T.contiguous() if self.turned else self.weight
        return Plain.apply(x, weight, self.rounders) + self.bias


@pytest.mark.parametrize("name", DTYPES)
def test_losses_of_an_mlp_equal_a_loop_with_ml_dtypes(name: str) -> None:
    watched, other = network(), network()
    expected_model = nn.Sequential(
        *(PlainLinear(part, name) if isinstance(part, nn.Linear) else part for part in other)
    )
    expected = plain_loop(expected_model, torch.optim.AdamW(expected_model.parameters(), 1e-2), 30)
    optimizer = torch.optim.AdamW(watched.parameters(), 1e-2)
    with observe(watched, optimizer, precision=name, regime="standard"):
        assert plain_loop(watched, optimizer, 30) == expected


@pytest.mark.parametrize("name", DTYPES)
def test_losses_of_a_gpt2_equal_a_loop_with_ml_dtypes(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    def make() -> nn.Module:
        torch.manual_seed(5)
        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 32}
        drops = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        config = transformers.GPT2Config(**sizes, **drops, bos_token_id=None, eos_token_id=None)
        model: nn.Module = transformers.GPT2LMHeadModel(config).train()
        return model

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        losses = []
        for step in range(10):
            tokens = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(step))
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    plain, watched = make(), make()
    for path, part in list(plain.named_modules()):
        if isinstance(part, Conv1D):
            parent, _, own = path.rpartition(".")
            setattr(plain.get_submodule(parent), own, PlainLinear(part, name, turned=True))
    expected = loop(plain, torch.optim.AdamW(plain.parameters(), 1e-2))
    optimizer = torch.optim.AdamW(watched.parameters(), 1e-2)
    with observe(watched, optimizer, precision=name, settings=["precision.head_format=fp32"]):
        assert loop(watched, optimizer) == expected


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_the_built_in_gpt_in_a_loop_of_ones_own_equals_train(regime: str, tmp_path: Path) -> None:
    config = load_config("base", [*SETTINGS, "fp8_format=E3M4", f"precision.regime={regime}"])
    expected = [event for event in train(config) if isinstance(event, StepCompleted)]

    subject, streams = load_subject(config), Streams(config.seed)
    assert subject.train is not None
    torch.default_generator.manual_seed(streams["init"].initial_seed())
    model = subject.build(streams["init"])
    matrices = [each for each in model.parameters() if each.dim() >= 2]
    vectors = [each for each in model.parameters() if each.dim() < 2]
    own = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": own.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        config.learning_rate,
        betas=own.betas,
        eps=own.eps,
        foreach=False,
    )
    with observe(
        model,
        optimizer,
        precision="E3M4",
        regime=regime,
        kind=subject.kind,
        run_dir=tmp_path / "run",
        settings=[f"seed={config.seed}", "runtime.threads=1", "diagnostic_interval=2"],
    ) as lab:
        for step in range(1, config.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(config, step)
            given = subject.train(streams["data"])

            def closure(given=given) -> Tensor:  # type: ignore[no-untyped-def]
                optimizer.zero_grad()
                loss = subject.loss(model(given.x), given.y)
                loss.backward()
                return loss

            with lab.step(closure):
                optimizer.step()
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()]
    found = [line for line in lines if line["event"] == "step"]
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        # The interval's prediction of stall is made for altgrad's own AdamW alone.
        skipped = {"tokens_per_second", "predicted_stall_rate"}
        assert {k: v for k, v in mine["metrics"].items() if k not in skipped} == {
            k: v for k, v in theirs.metrics.items() if k not in skipped
        }
        layers = {k: list(v) for k, v in theirs.layers.items() if k not in skipped}
        assert {k: v for k, v in mine["layers"].items() if k not in skipped} == layers


def test_what_a_loop_has_thrown_away_is_no_part_of_the_next_step(tmp_path: Path) -> None:
    """An exception between backward and update, and zero_grad: as if that pass had never been."""
    captured = []
    for fails in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with observe(model, optimizer, run_dir=tmp_path / str(fails), precision="e4m3") as lab:
            plain_loop(model, optimizer, 2)
            if fails:
                F.cross_entropy(model(batch(7)[0] * 1e4), batch(7)[1]).backward()
                optimizer.zero_grad()
            lab.capture_next()
            expected = plain_loop(model, optimizer, 1, first=2)
            assert lab.metrics["loss"] == expected[0]
        saved = torch.load(tmp_path / str(fails) / "checkpoints" / "anomaly_step_3.pt", weights_only=True)
        captured.append((lab.metrics, saved))
    (plain, before), (found, after) = captured
    assert len(after["batch"]["calls"]) == 1
    assert before["trace"] == after["trace"]
    assert found | {"tokens_per_second": None} == plain | {"tokens_per_second": None}


@pytest.mark.parametrize("policy", ["tell", "drop", "stop"])
def test_a_step_that_is_not_finite_is_captured_before_it_happens(policy: str, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    lab = observe(
        model,
        optimizer,
        run_dir=tmp_path / "run",
        nan_policy=policy,  # type: ignore[arg-type]
        settings=["inject=['nan@4:2:gradients']"],
    )
    plain_loop(model, optimizer, 3)
    before = [each.detach().clone() for each in model.parameters()]
    moments = [optimizer.state[each]["exp_avg"].clone() for each in model.parameters()]
    if policy == "stop":
        with pytest.raises(NonfiniteStep, match="gradients of 2"):
            plain_loop(model, optimizer, 1, first=3)
    else:
        plain_loop(model, optimizer, 1, first=3)
    same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert same == (policy != "tell")
    if policy != "tell":
        pairs = zip(moments, model.parameters(), strict=True)
        assert all(torch.equal(a, optimizer.state[b]["exp_avg"]) for a, b in pairs)
    lab.close()
    saved = torch.load(
        tmp_path / "run" / "checkpoints" / "anomaly_step_4.pt", weights_only=True, map_location="cpu"
    )
    names = dict(model.named_parameters())
    kept = dict(zip(names, before, strict=True))
    assert all(torch.equal(saved["weights"][name], kept[name]) for name in names)
    assert "gradients of 2 became nan" in saved["failure"]["trigger"]
    assert saved["trace"] and torch.equal(saved["batch"]["x"], batch(3)[0])
    assert (tmp_path / "run" / "failure_report.md").exists()
