"""The built-in subject: a GPT on a corpus of legal text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.corpus.batches import batch_at, draw_batch
from altgrad_cli.subjects.corpus.tokens import Corpus, load_corpus
from altgrad_cli.subjects.gpt.layer_names import layer_kind
from altgrad_cli.subjects.gpt.model import GPT, cross_entropy, initialize
from altgrad_cli.subjects.subject import Batch, Draw, Subject


@dataclass(frozen=True, slots=True)
class GPTBuilder:
    """A GPT of one shape."""

    shape: ModelConfig
    vocab_size: int

    def __call__(self, generator: torch.Generator) -> GPT:
        """The network with its initial weights."""
        model = GPT(self.shape, self.vocab_size)
        initialize(model, generator)
        return model


_MOST_LOGITS = 1 << 31


def read_text_corpus(config: TrainConfig) -> Corpus:
    """The text of ``config`` as tokens.

    Raises:
        DataError: the corpus cannot be found, read, tokenized or split, or is too short.
    """
    return load_corpus(config.data, config.model.block_size)


def gpt_on_corpus(config: TrainConfig, corpus: Corpus) -> Subject:
    """The GPT of ``config`` with batches of ``corpus``."""
    return gpt_subject(config, corpus.vocab_size, corpus)


def gpt_of_weights(config: TrainConfig, weights: Mapping[str, Tensor], corpus: Corpus | None) -> Subject:
    """The GPT of ``config`` for as many symbols as ``weights`` know; a KeyError where they are none of it."""
    return gpt_subject(config, vocabulary_of(weights), corpus)


def gpt_takes(config: TrainConfig, weights: Mapping[str, Tensor], batch: Batch) -> bool:
    """Whether the GPT with these weights can take ``batch``: token ids, of x and y alike."""
    vocabulary = vocabulary_of(weights)
    both = torch.stack((batch.x, batch.y))
    return (
        both.dtype == torch.int64
        and both.dim() == 3
        and 0 < both.shape[2] <= config.model.block_size
        and 0 < batch.x.numel() * vocabulary <= _MOST_LOGITS
        and int(both.min()) >= 0
        and int(both.max()) < vocabulary
    )


def windows_again(corpus: Corpus, offsets: Sequence[int], width: int) -> Batch | None:
    """The training batch of so many tokens a row at ``offsets``; None where one is not in the corpus."""
    last = len(corpus.train) - width - 1
    held = all(0 <= offset <= last for offset in offsets)
    return batch_at(corpus.train, offsets, width) if held else None


def vocabulary_of(weights: Mapping[str, Tensor]) -> int:
    """How many symbols the GPT with these weights knows; a KeyError where they are none of it."""
    return int(weights["wte.weight"].shape[0])


def gpt_subject(config: TrainConfig, vocab_size: int, corpus: Corpus | None = None) -> Subject:
    """The GPT of ``config`` for so many symbols, with batches of ``corpus``, or with none."""

    def draw(tokens: np.ndarray) -> Draw:
        size, block = config.batch_size, config.model.block_size
        return lambda generator: draw_batch(tokens, size, block, generator)

    return Subject(
        build=GPTBuilder(config.model, vocab_size),
        loss=cross_entropy,
        train=None if corpus is None else draw(corpus.train),
        validation=None if corpus is None else draw(corpus.validation),
        kind=layer_kind,
        corpus=corpus,
    )
