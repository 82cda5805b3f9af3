"""The EuroVoc subject: the classifier on documents with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.corpus.tokens import Corpus
from altgrad_cli.subjects.eurovoc.classifier import PAD, Classifier, binary_cross_entropy
from altgrad_cli.subjects.eurovoc.label_scores import label_scores
from altgrad_cli.subjects.eurovoc.labelled_corpus import (
    LabelledCorpus,
    LabelledDocuments,
    load_labelled_corpus,
)
from altgrad_cli.subjects.gpt.layer_names import layer_kind
from altgrad_cli.subjects.gpt.model import initialize
from altgrad_cli.subjects.subject import Batch, Draw, Subject


@dataclass(frozen=True, slots=True)
class ClassifierBuilder:
    """A classifier of one shape."""

    shape: ModelConfig
    vocab_size: int
    labels: int

    def __call__(self, generator: torch.Generator) -> Classifier:
        """The network with its initial weights."""
        model = Classifier(self.shape, self.vocab_size, self.labels)
        initialize(model, generator)
        return model


def read_labelled(config: TrainConfig) -> LabelledCorpus:
    """The documents and labels of ``config``.

    Raises:
        DataError: the corpus cannot be found, read, tokenized or split, or has no labels to learn.
    """
    return load_labelled_corpus(config.data, config.model.block_size)


def classifier_on_corpus(config: TrainConfig, corpus: Corpus) -> Subject:
    """The classifier of ``config`` with batches of ``corpus``, which ``read_labelled`` read."""
    assert isinstance(corpus, LabelledCorpus)
    return _subject(config, corpus.vocab_size, len(corpus.names), corpus)


def classifier_of_weights(
    config: TrainConfig, weights: Mapping[str, Tensor], corpus: Corpus | None
) -> Subject:
    """The classifier of ``config`` for as many symbols and labels as ``weights`` know; or a KeyError."""
    assert corpus is None or isinstance(corpus, LabelledCorpus)
    vocab_size, labels = _sizes(weights)
    if corpus is not None and len(corpus.names) != labels:
        raise KeyError(f"a head for the {len(corpus.names)} labels of the corpus")
    return _subject(config, vocab_size, labels, corpus)


def classifier_takes(config: TrainConfig, weights: Mapping[str, Tensor], batch: Batch) -> bool:
    """Whether the classifier with these weights can take ``batch``: tokens and padding, labels of 0 and 1."""
    vocabulary, labels = _sizes(weights)
    x, y = batch.x, batch.y
    return (
        (x.dtype, y.dtype) == (torch.int64, torch.float32)
        and (x.dim(), y.dim()) == (2, 2)
        and 0 < x.shape[1] <= config.model.block_size
        and y.shape == (x.shape[0], labels)
        and x.numel() > 0
        and int(x.min()) >= PAD
        and int(x.max()) < vocabulary
        and bool(((y == 0) | (y == 1)).all())
    )


def documents_again(corpus: Corpus, numbers: Sequence[int], width: int) -> Batch | None:
    """The training documents with these numbers; None where there is one that the corpus has not."""
    assert isinstance(corpus, LabelledCorpus)
    documents = corpus.train_documents
    held = all(0 <= number < len(documents.tokens) for number in numbers)
    return documents.batch_at(numbers) if held and width == documents.tokens.shape[1] else None


def _sizes(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    return int(weights["wte.weight"].shape[0]), int(weights["label_head.weight"].shape[0])


def _subject(config: TrainConfig, vocab_size: int, labels: int, corpus: LabelledCorpus | None) -> Subject:
    def draw(documents: LabelledDocuments) -> Draw:
        return lambda generator: documents.draw(config.batch_size, generator)

    return Subject(
        build=ClassifierBuilder(config.model, vocab_size, labels),
        loss=binary_cross_entropy,
        train=None if corpus is None else draw(corpus.train_documents),
        validation=None if corpus is None else draw(corpus.validation_documents),
        kind=layer_kind,
        corpus=corpus,
        scores=label_scores,
    )
