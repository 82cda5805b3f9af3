"""Models in what others put round them: DistributedDataParallel, FSDP2, torch.compile."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # once, and not in every process that is forked
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from altgrad_cli import observe
from altgrad_cli.errors import AltgradError, UsageError
from altgrad_cli.training.parallel.ranks import Ranks
from tests.observing.loops import batch, network, plain_loop
from tests.ranks import on_ranks

Loop = tuple[list[float], dict[str, Tensor]]


def shared_loop(ranks: Ranks, steps: int, spoiled: int | None = None, **options: Any) -> Loop:
    """The losses and weights of a rank, each with batches of its own; observed where there are options."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    lab = observe(model, optimizer, **options) if options else None
    losses = []
    for step in range(steps):
        x, y = batch(10 * step + ranks.rank)
        if step == spoiled and ranks.rank == 1:
            x[0, 0] = torch.inf  # a saturating format makes it finite: no gradient tells the other rank
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if lab is not None:
        lab.close()
    weights = model.module.state_dict()
    del model
    dist.destroy_process_group()
    return losses, weights


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_of_several_processes_is_left_alone(tmp_path: Path) -> None:
    expected = on_ranks(2, tmp_path, lambda ranks: shared_loop(ranks, 6))
    run = tmp_path / "run"
    found = on_ranks(2, tmp_path, lambda ranks: shared_loop(ranks, 6, regime="fp32", run_dir=run))
    for (losses, weights), (plain_losses, plain_weights) in zip(found, expected, strict=True):
        assert losses == plain_losses and same(weights, plain_weights)
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    whole = [line["metrics"]["loss"] for line in lines if line["event"] == "step"]
    means = [(a + b) / 2 for a, b in zip(expected[0][0], expected[1][0], strict=True)]
    assert whole == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_processes_decide_alike(regime: str, tmp_path: Path) -> None:
    options = {"precision": "e5m2", "regime": regime, "nan_policy": "drop"}
    with observe(model := network(), torch.optim.SGD(model.parameters(), 0.1)):
        model(batch(0)[0])  # what rounds is loaded once, and not in every process that is forked
    before = on_ranks(2, tmp_path, lambda ranks: shared_loop(ranks, 3, **options))
    assert same(before[0][1], before[1][1])
    after = on_ranks(2, tmp_path, lambda ranks: shared_loop(ranks, 4, spoiled=3, **options))
    assert same(after[0][1], before[0][1]) and same(after[1][1], before[0][1])


def test_every_process_is_told_that_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").touch()

    def said(ranks: Ranks) -> str:
        with pytest.raises(AltgradError) as error:
            shared_loop(ranks, 1, run_dir=tmp_path / "run")
        return str(error.value)

    first, second = on_ranks(2, tmp_path, said)
    assert "run" in first and first.splitlines()[0] == second.splitlines()[0]


@pytest.mark.parametrize("parts", [[], [2], [0, 2, 4]])
def test_a_sharded_model_is_refused_before_its_first_step(parts: list[int], tmp_path: Path) -> None:
    """Sharded as a whole, in one part, or layer by layer; and afterwards it trains as if never given."""

    def said(ranks: Ranks) -> tuple[str, bool]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        def sharded() -> tuple[nn.Module, torch.optim.Optimizer]:
            model, mesh = network(), init_device_mesh("cpu", (ranks.count,))
            for part in parts:
                fully_shard(model[part], mesh=mesh)
            if len(parts) != 1:
                fully_shard(model, mesh=mesh)
            return model, torch.optim.SGD(model.parameters(), 0.1)

        model, optimizer = sharded()
        with pytest.raises(UsageError) as error:
            observe(model, optimizer)
        assert not any("forward" in part.__dict__ for part in model.modules())
        words = "".join(traceback.format_exception_only(error.value))
        return words, plain_loop(model, optimizer, 2) == plain_loop(*sharded(), 2)

    for words, trains_alike in on_ranks(2, tmp_path, said):
        assert (
            "sharded (FSDP)" in words and "hint: " in words and words.index("sharded") < words.index("hint")
        )
        assert trains_alike


class Whole(nn.Module):
    """``network`` inside a module, so that a part of it can be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) * 1.0
        return out


def compiled_whole(model: Whole, backend: Any) -> tuple[nn.Module, nn.Module]:
    outer: nn.Module = torch.compile(model, backend=backend)  # type: ignore[assignment]
    return outer, outer


def compiled_in_place(model: Whole, backend: Any) -> tuple[nn.Module, nn.Module]:
    model.compile(backend=backend)
    return model, model


def compiled_part(model: Whole, backend: Any) -> tuple[nn.Module, nn.Module]:
    model.net[2] = torch.compile(model.net[2], backend=backend)  # type: ignore[assignment]
    return model, model


def compiled_behind_its_back(model: Whole, backend: Any) -> tuple[nn.Module, nn.Module]:
    return torch.compile(model, backend=backend), model  # type: ignore[return-value]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {k.replace("_orig_mod.", ""): v for k, v in copy.deepcopy(model.state_dict()).items()}


@pytest.mark.filterwarnings("ignore:.*runs eagerly", "ignore:The .grad attribute")
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("make", [compiled_whole, compiled_in_place, compiled_part, compiled_behind_its_back])
def test_a_compiled_model_rounds_as_an_eager_one_and_is_given_back(
    make: Callable[..., tuple[nn.Module, nn.Module]], warm: bool
) -> None:
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        forward: Callable[..., Any] = graph.forward
        return forward

    torch._dynamo.reset()
    inner, eager = Whole(), Whole()
    called, observed = make(inner, backend)
    optimizer = torch.optim.SGD(inner.parameters(), 0.1)
    if warm:
        plain_loop(called, optimizer, 1)
        assert graphs == 1
    eager.load_state_dict(weights_of(inner))
    other = torch.optim.SGD(eager.parameters(), 0.1)
    with observe(observed, optimizer, precision="e4m3"):
        found = plain_loop(called, optimizer, 3, first=1)
    with observe(eager, other, precision="e4m3"):
        assert plain_loop(eager, other, 3, first=1) == found
    assert plain_loop(called, optimizer, 2, first=4) == plain_loop(eager, other, 2, first=4)
    # A frame whose first run was the pass that is counted may stay uncompiled: torch skips it from then on.
    assert graphs or make is compiled_behind_its_back


def test_a_compiled_model_says_that_it_runs_eagerly() -> None:
    model = network()
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="runs eagerly"):
        observe(compiled, torch.optim.SGD(model.parameters(), 0.1)).close()
