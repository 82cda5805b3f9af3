"""Embeddings that a rule names give rows of Q(W), as in a loop with ml_dtypes; all others are holes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import observe
from altgrad_cli.errors import AltgradError, UsageError
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay import compare
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from tests.conftest import needed
from tests.observing import planted
from tests.observing.loops import plain_loop
from tests.observing.test_rounded import DTYPES, Rounder

WORDS, PLACES = "transformer.wte", "transformer.wpe"
"""The first shares its weight with the head."""


class PlainTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, rounder):  # type: ignore[no-untyped-def]
        return rounder(w)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return g, None


class PlainEmbedding(nn.Module):
    """An embedding with a rounded table, written once more."""

    def __init__(self, layer: nn.Embedding, name: str) -> None:
        super().__init__()
        self.weight, self.padding_idx, self.rounder = layer.weight, layer.padding_idx, Rounder(name)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, PlainTable.apply(self.weight, self.rounder), self.padding_idx)


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        tokens = torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(step))
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def gpt2() -> tuple[nn.Module, torch.optim.Optimizer]:
    needed("transformers")
    torch.manual_seed(5)
    model = planted.build_gpt2(torch.Generator())
    return model, torch.optim.AdamW(model.parameters(), 1e-2)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("regime", ["fp32", "postln"])
def test_losses_equal_a_loop_with_ml_dtypes(name: str, regime: str) -> None:
    model, optimizer = gpt2()
    for path in (WORDS, PLACES):
        parent, _, own = path.rpartition(".")
        setattr(model.get_submodule(parent), own, PlainEmbedding(model.get_submodule(path), name))  # type: ignore[arg-type]
    expected = loop(model, optimizer, 10)
    model, optimizer = gpt2()
    plain = loop(*gpt2(), 10)
    rules = [(WORDS, name), (PLACES, name)]
    settings = ["precision.head_format=fp32"]
    with observe(model, optimizer, precision=name, regime=regime, rules=rules, settings=settings):
        assert loop(model, optimizer, 10) == expected != plain


class Table(nn.Module):
    """Of words to points; the first word is padding."""

    def __init__(self, **options: float) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Embedding(7, 8, padding_idx=0, scale_grad_by_freq=True, **options)
        self.answer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.answer(self.table((x[:, :3].abs() * 3).long().clamp(max=6)).sum(1))
        return out


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_the_table_keeps_its_float32_master_and_its_options(regime: str) -> None:
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer, precision="e4m3", regime=regime, rules=[("table", "e4m3")]) as lab:
        before = model.table.weight.detach().clone()
        rows: list[Tensor] = []
        handle = model.table.register_forward_hook(lambda module, args, out: rows.append(out.detach()))
        plain_loop(model, optimizer, 3)
        assert "overflow_rate/weights" in lab.metrics
        handle.remove()
        significands = 2**4 * torch.frexp(torch.stack(rows)).mantissa  # E4M3 has four bits of them
        assert torch.equal(significands, significands.round())
        assert not torch.equal(before, 2**-4 * (2**4 * before).round()), "and the master has more"
        assert torch.equal(model.table.weight[0], before[0]), "the padding has no gradient"
        assert not torch.equal(model.table.weight[1:], before[1:])
    assert torch.equal(model.table(torch.arange(7)), model.table.weight)


def test_one_that_writes_into_its_weight_is_refused() -> None:
    model = Table(max_norm=1.0)
    with pytest.raises(UsageError, match="max_norm") as error:
        observe(model, torch.optim.SGD(model.parameters(), 0.1), rules=[("table", "e4m3")])
    assert error.value.hint
    assert not any("forward" in part.__dict__ for part in model.modules())


@pytest.mark.parametrize("rules", [[("table", "e4m3")], [("*", "e4m3")]])
def test_what_is_not_named_is_reported_as_not_rounded(rules: list[tuple[str, str]], tmp_path: Path) -> None:
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer, rules=rules, run_dir=tmp_path / "run") as lab:
        plain_loop(model, optimizer, 2)
        found = lab.coverage()
    assert found is not None and found.share == 1
    words = "an embedding: a look-up without a product"
    left = [(row.module, row.why) for row in found.left_out]
    assert left == ([] if rules[0][0] == "table" else [("table", words)])
    assert (words in to_markdown(build_report([tmp_path / "run"]), None)) == bool(left)


def test_a_fault_in_its_weight_is_named_and_can_be_replayed(tmp_path: Path) -> None:
    model, optimizer = gpt2()
    run, subject = tmp_path / "run", f"{planted.__file__}:gpt2"
    fault = [f"inject=['nan@3:{WORDS}:weights']"]
    rules = [(WORDS, "e4m3")]
    with observe(model, optimizer, run_dir=run, rules=rules, subject=subject, settings=fault):
        loop(model, optimizer, 3)
    assert f"weights of {WORDS} became nan" in (run / "failure_report.md").read_text("utf-8")
    opened = open_checkpoint(run / "checkpoints" / "anomaly_step_3.pt")
    assert isinstance(opened, OpenedCheckpoint)
    again = compare(opened.saved.trace, rebuild(opened, None, subject).trace(), {})
    assert again.bit_exact and again.compared


def test_it_has_no_gradients_that_could_be_struck() -> None:
    model = Table()
    with pytest.raises(AltgradError, match="embedding"):
        observe(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            rules=[("table", "e4m3")],
            settings=["inject=['nan@3:table:gradients']"],
        )
