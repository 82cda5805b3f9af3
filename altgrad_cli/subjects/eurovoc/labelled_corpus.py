"""Documents and labels as arrays: the labels that are learnt, the tokens that are read.

What is learnt is decided on the training documents alone: the labels that at least two of them have, the most
frequent first, those of equal frequency by name, at most ``data.labels`` of them. A document with none of
these stays, all zeros: that it has none is to be learnt too. Of each document the first ``block_size`` tokens
are read, as the field does; a shorter one ends in ``PAD``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.tokens import Corpus, evaluated_part, prepared_tokens, whole_corpus
from altgrad_cli.subjects.eurovoc.classifier import PAD
from altgrad_cli.subjects.subject import Batch

LEAST_DOCUMENTS = 2
"""Training documents that a label must have to be learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledDocuments:
    """The documents of one split, a row each."""

    tokens: np.ndarray
    """(documents, block) int64: the first tokens of each, then ``PAD``."""
    labels: np.ndarray
    """(documents, labels) float32: 1 for each that it has."""

    def batch_at(self, numbers: Sequence[int]) -> Batch:
        """The documents with these numbers, which are the batch's offsets."""
        rows = list(numbers)
        x, y = torch.from_numpy(self.tokens[rows]), torch.from_numpy(self.labels[rows])
        return Batch(x=x, y=y, offsets=tuple(rows))

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """``size`` documents, drawn with replacement in one call on the CPU generator."""
        return self.batch_at(torch.randint(len(self.tokens), (size,), generator=generator).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCorpus(Corpus):
    """A corpus of documents with labels; its fingerprint covers the labels too."""

    names: tuple[str, ...]
    """The labels that are learnt, in the order of the classifier's outputs."""
    train_documents: LabelledDocuments
    validation_documents: LabelledDocuments
    """Those that ``data.evaluate_on`` names."""


def load_labelled_corpus(config: DataConfig, block_size: int) -> LabelledCorpus:
    """The configured corpus as documents of at most ``block_size`` tokens with their labels.

    Raises:
        DataError: it cannot be found, read, tokenized or split, or has no labels to learn.
    """
    tokens = prepared_tokens(config, labelled=True)
    about: Mapping[str, Any] = tokens.about
    of_train, of_validation = about["documents"]["train"], about["documents"]["validation"]
    names = learnt_labels(of_train["labels"], config.labels)
    split, part = evaluated_part(len(of_validation["lengths"]), config.evaluate_on)
    validation = _documents(tokens.validation, of_validation, block_size, names, part)
    place = str(config.path or config.hub or "data")
    if not names:
        raise DataError(
            f"no label stands on {LEAST_DOCUMENTS} of the {len(of_train['lengths'])} training documents",
            where=place,
            hint="use more documents",
        )
    if not len(validation.tokens):
        raise DataError(f"the {split} has no document", where=place, hint="use more documents")
    whole = whole_corpus(tokens)
    found = len({label for labels in of_train["labels"] for label in labels})
    without = sum(not set(labels) & set(names) for labels in of_train["labels"])
    said = f"{len(names)} of {found} labels, {without} training documents with none of these"
    return LabelledCorpus(
        **{part.name: getattr(whole, part.name) for part in fields(whole)}
        | {"source": f"{whole.source}; {said}"},
        names=names,
        train_documents=_documents(tokens.train, of_train, block_size, names, slice(None)),
        validation_documents=validation,
    )


def learnt_labels(labels: Iterable[Iterable[str]], most: int) -> tuple[str, ...]:
    """The labels to learn, from those of each training document."""
    counts = Counter(label for given in labels for label in set(given))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, count in ranked[:most] if count >= LEAST_DOCUMENTS)


def _documents(
    ids: np.ndarray, about: Mapping[str, Any], block_size: int, names: Sequence[str], part: slice
) -> LabelledDocuments:
    """The documents of ``part``, of which ``about`` says how they lie behind one another in ``ids``."""
    ends = np.cumsum(about["lengths"])[part].tolist()
    lengths, labels = about["lengths"][part], about["labels"][part]
    tokens = np.full((len(lengths), block_size), PAD, dtype=np.int64)
    targets = np.zeros((len(lengths), len(names)), dtype=np.float32)
    column = {name: number for number, name in enumerate(names)}
    for row, (end, length, given) in enumerate(zip(ends, lengths, labels, strict=True)):
        read = min(length, block_size)
        tokens[row, :read] = ids[end - length : end - length + read]
        targets[row, [column[label] for label in given if label in column]] = 1
    return LabelledDocuments(tokens, targets)
