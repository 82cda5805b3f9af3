"""The subjects that altgrad has itself, by the name that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.subjects.corpus.tokens import Corpus
from altgrad_cli.subjects.eurovoc import label_subject
from altgrad_cli.subjects.gpt import text_subject
from altgrad_cli.subjects.subject import Batch, Subject


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """How a subject is made of a configuration, and of what else there is."""

    read: Callable[[TrainConfig], Corpus]
    on_corpus: Callable[[TrainConfig, Corpus], Subject]
    of_weights: Callable[[TrainConfig, Mapping[str, Tensor], Corpus | None], Subject]
    takes: Callable[[TrainConfig, Mapping[str, Tensor], Batch], bool]
    draw_again: Callable[[Corpus, Sequence[int], int], Batch | None]


BUILT_IN: Mapping[str, BuiltIn] = {
    "gpt": BuiltIn(
        text_subject.read_text_corpus,
        text_subject.gpt_on_corpus,
        text_subject.gpt_of_weights,
        text_subject.gpt_takes,
        text_subject.windows_again,
    ),
    "eurovoc": BuiltIn(
        label_subject.read_labelled,
        label_subject.classifier_on_corpus,
        label_subject.classifier_of_weights,
        label_subject.classifier_takes,
        label_subject.documents_again,
    ),
}


def _built_in(config: TrainConfig) -> BuiltIn:
    if config.subject not in BUILT_IN:
        raise UsageError(
            f"the subject {config.subject} is code of your own, which is loaded only where it is asked for",
            where="subject",
            hint="in Python: train(config, subject=...), with the Subject itself",
        )
    return BUILT_IN[config.subject]


def read_corpus(config: TrainConfig) -> Corpus:
    """The corpus of the configured subject.

    Raises:
        DataError: it cannot be found, read, tokenized or split, or is too short.
    """
    return _built_in(config).read(config)


def load_subject(config: TrainConfig) -> Subject:
    """The configured subject on its corpus.

    Raises:
        DataError: as ``read_corpus``.
    """
    return _built_in(config).on_corpus(config, read_corpus(config))


def subject_of_weights(
    config: TrainConfig, weights: Mapping[str, Tensor], corpus: Corpus | None = None
) -> Subject:
    """The configured subject, its network of the size of ``weights``; without a corpus it has no batches.

    Raises:
        KeyError, IndexError: the weights are none of it.
    """
    return _built_in(config).of_weights(config, weights, corpus)


def takes_batch(config: TrainConfig, weights: Mapping[str, Tensor], batch: Batch) -> bool:
    """Whether the configured subject with these weights can take ``batch``, which may be forged."""
    try:
        return _built_in(config).takes(config, weights, batch)
    except RuntimeError:  # two tensors that do not go together
        return False


def training_batch(config: TrainConfig, corpus: Corpus, like: Batch) -> Batch | None:
    """What ``corpus`` holds where ``like`` says it is from; None where it holds nothing there."""
    return _built_in(config).draw_again(corpus, like.offsets, like.x.shape[1])
