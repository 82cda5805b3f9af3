"""What of an observed loop is rounded, against multiply-adds counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli import observe
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from tests.conftest import needed
from tests.observing.loops import batch, network, plain_loop
from tests.observing.planted import build_gpt2


def events(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]


class Expert(nn.Module):
    """Layers that round, and a functional call with a weight of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.more, self.weight = (
            nn.Linear(8, 16),
            nn.Linear(16, 16),
            nn.Parameter(torch.randn(width, 16)),
        )
        self.answer = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.answer(F.linear(self.more(self.layer(x)), self.weight))
        return out


@pytest.mark.parametrize(("width", "low"), [(64, True), (1, False)])
def test_functional_calls_are_named_and_many_of_them_are_an_alert(
    width: int, low: bool, tmp_path: Path
) -> None:
    model = Expert(width)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer, run_dir=tmp_path / "run") as lab:
        assert lab.coverage() is None
        plain_loop(model, optimizer, 3)
        found = lab.coverage()
    rounded, functional = 6 * (8 * 16 + 16 * 16 + width * 4), 6 * 16 * width
    assert found is not None
    assert (found.rounded, found.multiply_adds) == (rounded, rounded + functional)
    assert [(row.module, row.multiply_adds) for row in found.left_out] == [("(model)", functional)]
    said = events(tmp_path / "run")
    assert [line["event"] for line in said].count("run_started") == 1
    assert said[0]["event"] == "run_started"
    assert said[0]["coverage"]["share"] == rounded / (rounded + functional)  # type: ignore[index]
    alerts = [line["name"] for line in said if line["event"] == "alert"]
    assert ("low_coverage" in alerts) == low
    assert "functional call" in to_markdown(build_report([tmp_path / "run"]), None)


def test_a_gpt2_of_transformers(tmp_path: Path) -> None:
    needed("transformers")
    model = build_gpt2(torch.Generator())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rules = [("transformer.h.1.mlp.*", "fp32")]
    with observe(model, optimizer, rules=rules) as lab:
        for _ in range(2):
            tokens = torch.randint(32, (2, 8))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
        found = lab.coverage()
    tokens_seen, width = 16, 16
    a_block, mlp = 12 * width**2 * tokens_seen, 8 * width**2 * tokens_seen
    attention = 2 * 2 * 8 * 8 * width * 2  # QK^T and PV of two blocks, counted whole
    whole = 2 * a_block + tokens_seen * width * 32 + attention
    assert found is not None and found.multiply_adds == whole
    assert found.rounded == whole - attention - mlp
    assert found.reached == whole - attention
    reasons = {row.module: row.why for row in found.left_out if row.multiply_adds}
    assert reasons["transformer.h.1.mlp.c_fc"] == "left in float32 by the configuration"
    assert "fused attention" in reasons["transformer.h.0.attn"]


def test_a_first_pass_that_fails_is_not_the_one_that_is_counted() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with observe(model, optimizer) as lab:
        with pytest.raises(RuntimeError, match="shape"):
            model(torch.randn(6, 9))
        assert lab.coverage() is None
        plain_loop(model, optimizer, 1)
        found = lab.coverage()
    assert found is not None and found.multiply_adds == 6 * (8 * 16 + 16 * 16 + 16 * 4)
    assert torch._C._len_torch_dispatch_stack() == 0


def test_counting_changes_no_bit_of_the_pass() -> None:
    plain, watched = network(), network()
    optimizer = torch.optim.SGD(watched.parameters(), 0.1)
    with observe(watched, optimizer, regime="fp32"):
        found = watched(batch(0)[0])
    assert torch.equal(found, plain(batch(0)[0]))
