"""Micro and macro F1 against counting by hand, and against scikit-learn where that is installed."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.subjects.eurovoc.label_scores import label_scores
from altgrad_cli.subjects.subject import Batch


def batch(y: torch.Tensor, offsets: tuple[int, ...]) -> Batch:
    return Batch(x=torch.zeros(len(y), 1, dtype=torch.int64), y=y, offsets=offsets)


def drawn(documents: int, labels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(documents, labels, generator=generator)
    return logits, (torch.rand(documents, labels, generator=generator) < 0.3).float()


def by_hand(logits: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """F1 as the harmonic mean of precision and recall, over sets."""

    def f1(predicted: set[tuple[int, int]], true: set[tuple[int, int]]) -> float:
        if not predicted & true:
            return 0.0
        precision, recall = len(predicted & true) / len(predicted), len(predicted & true) / len(true)
        return 2 * precision * recall / (precision + recall)

    places = [(row, label) for row in range(len(y)) for label in range(y.shape[1])]
    predicted = {place for place in places if 1 / (1 + math.exp(-float(logits[place]))) >= 0.5}
    true = {place for place in places if y[place]}
    each = [
        f1({p for p in predicted if p[1] == label}, {p for p in true if p[1] == label})
        for label in range(y.shape[1])
    ]
    return {"micro_f1": f1(predicted, true), "macro_f1": sum(each) / len(each)}


@pytest.mark.parametrize("seed", range(5))
def test_as_counted_by_hand_and_each_document_once(seed: int) -> None:
    logits, y = drawn(9, 4, seed)
    logits[:, 3], y[:, 3] = -1, 0  # a label that nobody has and nobody predicts
    twice = [(0, 1, 2, 3), (3, 4, 5, 6, 7, 8, 0)]
    found = label_scores(
        [batch(y[list(rows)], rows) for rows in twice], [logits[list(rows)] for rows in twice]
    )
    assert found == pytest.approx(by_hand(logits, y))
    assert 0 < found["macro_f1"] < 1


def test_as_scikit_learn_has_it() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, y = drawn(50, 12, 1)
    y[:, 5] = 0
    found = label_scores([batch(y, tuple(range(50)))], [logits])
    for average in ("micro", "macro"):
        expected = metrics.f1_score(y.numpy(), (logits >= 0).numpy(), average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)


def test_all_right_all_wrong_and_not_a_number() -> None:
    _, y = drawn(6, 2, 0)
    rows = tuple(range(6))
    assert label_scores([batch(y, rows)], [y * 2 - 1]) == {"micro_f1": 1.0, "macro_f1": 1.0}
    assert label_scores([batch(y, rows)], [1 - y * 2]) == {"micro_f1": 0.0, "macro_f1": 0.0}
    broken = torch.zeros(6, 2)
    broken[3, 1] = math.nan
    assert all(math.isnan(value) for value in label_scores([batch(y, rows)], [broken]).values())
