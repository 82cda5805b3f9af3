"""Mean pooling, head and loss against plain loops; what stands at padded places has no part in anything."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.subjects.eurovoc.classifier import PAD, Classifier, binary_cross_entropy
from altgrad_cli.subjects.gpt.model import initialize

SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=6)
LABELS = 3


def network() -> Classifier:
    model = Classifier(SHAPE, 11, LABELS)
    initialize(model, torch.Generator().manual_seed(3))
    return model


DOCUMENTS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, PAD, PAD, PAD], [10, PAD, PAD, PAD, PAD, PAD]])


@torch.no_grad()
def test_logits_are_the_head_of_the_mean_of_the_documents_own_features() -> None:
    model = network()
    logits = model(DOCUMENTS)
    head = model.label_head.weight.tolist()
    for row, document in enumerate(DOCUMENTS.tolist()):
        tokens = [token for token in document if token != PAD]
        features = model.features(torch.tensor([tokens]))[0].tolist()  # without any padding
        mean = [math.fsum(column) / len(tokens) for column in zip(*features, strict=True)]
        expected = [math.fsum(w * m for w, m in zip(weights, mean, strict=True)) for weights in head]
        assert logits[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def gradients(model: Classifier, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(tokens)
    binary_cross_entropy(logits, torch.ones(logits.shape)).backward()  # type: ignore[no-untyped-call]
    return logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_what_stands_at_padded_places_changes_no_bit() -> None:
    model = network()
    logits, given = gradients(model, DOCUMENTS)
    for parameter, places in (("wte", [0]), ("wpe", [5])):  # what is embedded there, and only there
        other = DOCUMENTS[1:]
        before, grads_before = gradients(model, other)
        with torch.no_grad():
            model.get_parameter(f"{parameter}.weight")[places] += 1
        after, grads_after = gradients(model, other)
        assert torch.equal(before, after)
        assert all(torch.equal(grads_before[name], grads_after[name]) for name in grads_before)
        assert not grads_after[f"{parameter}.weight"][places].any()
    assert len(given) == len(dict(model.named_parameters()))
    seen = model(DOCUMENTS.clamp(min=0))[1:]  # the same bits read as tokens: there it does matter
    assert not torch.allclose(seen, logits[1:], atol=1e-4)


@torch.no_grad()
def test_more_padding_is_the_same_document() -> None:
    model = network()
    assert torch.allclose(model(DOCUMENTS[1:, :4]), model(DOCUMENTS[1:]), atol=1e-6)


@torch.no_grad()
def test_a_row_without_a_token_is_finite() -> None:
    assert model_of_nothing().isfinite().all()


def model_of_nothing() -> Tensor:
    logits: Tensor = network()(torch.full((1, 4), PAD))
    return logits


def test_the_loss_is_that_of_a_plain_loop() -> None:
    logits = torch.tensor([[-30.0, 0.0, 2.5], [100.0, -1.0, 1e-3]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    expected = []
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        odds = z if y else -z  # -log(sigmoid(odds))
        expected.append(math.log1p(math.exp(-odds)) if odds > 0 else -odds + math.log1p(math.exp(odds)))
    each = binary_cross_entropy(logits, targets, reduction="none")
    assert each.shape == (2, 3)
    assert each.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert float(binary_cross_entropy(logits, targets)) == pytest.approx(sum(expected) / 6, rel=1e-6)
