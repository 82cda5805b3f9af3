"""Coverage against multiply-adds counted by hand, and its holes by name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.loading import load_config
from altgrad_cli.surgery.coverage import Coverage, coverage
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.swapping import prepare_layers
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Alert, RunStarted
from tests.conftest import REPOSITORY, needed
from tests.small import LAW
from tests.surgery.test_linear import plan_for, rounding_for


def found(model: nn.Module, x: Tensor, *, rounded: bool = True) -> Coverage:
    """Of a model whose first layer alone is rounded, or nothing."""
    slot = PassSlot()
    prepare_layers(model, slot)
    if not rounded:
        return coverage(model, lambda: model(x))
    with slot.use(rounding_for(plan_for("E5M2"))):
        return coverage(model, lambda: model(x))


class Functional(nn.Module):
    """A layer, a functional call with a weight of its own, and experts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.experts = nn.Parameter(torch.randn(3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.layer(x), self.weight)
        return torch.einsum("bi,eij->bej", y, self.experts)


def test_functional_calls_are_named_with_what_they_cost() -> None:
    seen = found(nn.Sequential(Functional()), torch.randn(2, 4))
    layer, call, experts = 2 * 4 * 6, 2 * 6 * 5, 2 * 3 * 5 * 7
    assert (seen.multiply_adds, seen.reached, seen.rounded) == (layer + call + experts, layer, layer)
    assert seen.share == layer / (layer + call + experts)
    assert [(row.module, row.operation, row.multiply_adds) for row in seen.left_out] == [
        ("0", "bmm", experts),
        ("0", "mm", call),
    ]
    assert "functional call" in seen.left_out[1].why


def test_packed_projections_recurrences_and_look_ups_are_no_silent_hole() -> None:
    width, time, batch = 8, 3, 2

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.attention = nn.Embedding(5, width), nn.MultiheadAttention(width, 2)
            self.recurrence = nn.LSTM(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.embedding(x)
            return self.recurrence(self.attention(y, y, y, need_weights=False)[0])[0]

    seen = found(nn.Sequential(Attention().eval()), torch.zeros(time, batch, dtype=torch.long), rounded=False)
    tokens = time * batch
    costs = {
        "0.attention": 4 * tokens * width**2 + 2 * batch * time**2 * width,
        "0.recurrence": tokens * (4 * width * 4 + 4 * 4 * 4),
        "0.embedding": 0,
    }
    assert {name: sum(r.multiply_adds for r in seen.left_out if r.module == name) for name in costs} == costs
    assert seen.multiply_adds == sum(costs.values()) and seen.reached == 0 and seen.unreached == 1
    assert any("packed" in row.why for row in seen.left_out)


def counted(*settings: str, subject: object = None) -> tuple[RunStarted, list[Alert]]:
    small = ("max_steps=1", "batch_size=2", "model.n_layer=2", "model.n_head=2", "model.n_embd=32")
    rest = ("model.block_size=16", f"data.path={LAW}", "fp8_format=E3M4", "optimizer.warmup_steps=0")
    config = load_config("base", [*small, *rest, "runtime.evaluation_batches=1", *settings])
    events = list(train(config, subject=subject(config) if subject else None))  # type: ignore[operator]
    assert isinstance(events[0], RunStarted)
    return events[0], [event for event in events if isinstance(event, Alert) and event.name == "low_coverage"]


def test_the_built_in_network_says_its_share_and_raises_no_alert() -> None:
    started, alerts = counted()
    said = started.coverage
    assert said is not None
    tokens, width, time = 2 * 16, 32, 16
    layers = 2 * 12 * tokens * width**2
    attention = 2 * 2 * 2 * time**2 * width
    head = tokens * width * started.corpus["vocab_size"]
    assert said["multiply_adds"] == layers + attention + head
    assert said["reached"] == said["rounded"] == layers + head
    assert sum(row["multiply_adds"] for row in said["left_out"]) == attention
    assert not alerts


@pytest.mark.parametrize("name", ["cnn", "llama", "gpt2"])
def test_an_example_by_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "gpt2":
        needed("transformers")
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    module = __import__(name)
    started, alerts = counted("subject=examples:own", subject=module.subject)
    said = started.coverage
    assert said is not None
    tokens = 2 * 16
    reached = {
        "cnn": 2 * (256 * 8 * 9 + 64 * 16 * 8 * 9 + 256 * 32 + 32 * 4),
        "llama": 2 * tokens * (4 * 64**2 + 3 * 64 * 192) + tokens * 64 * 32,
        "gpt2": 2 * 12 * tokens * 32**2 + tokens * 32 * started.corpus.get("vocab_size", 0),
    }[name]
    attention = {"cnn": 0, "llama": 2 * 2 * 2 * 16**2 * 64, "gpt2": 2 * 2 * 2 * 16**2 * 32}[name]
    assert (said["rounded"], said["multiply_adds"]) == (reached, reached + attention)
    assert bool(alerts) == (attention > 0.1 * (reached + attention))
    sys.modules.pop(name)


def test_a_model_of_holes_raises_an_alert_once_and_a_control_none() -> None:
    from altgrad_cli import Batch, Subject

    def draw(generator: torch.Generator) -> Batch:
        return Batch(torch.randn(2, 4, generator=generator), torch.zeros(2, 3, 7))

    def own(config: object) -> Subject:
        return Subject(lambda generator: nn.Sequential(Functional()), F.mse_loss, draw, draw)

    _, alerts = counted("subject=m:f", "precision.regime=standard", subject=own)
    assert [(alert.step, alert.metric, alert.state) for alert in alerts] == [
        (0, "unreached_products", "raised")
    ]
    assert not counted("subject=m:f", "precision.regime=fp32", subject=own)[1]
