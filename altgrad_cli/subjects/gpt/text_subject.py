"""The built-in subject: a GPT on a corpus of legal text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.corpus.batches import draw_batch
from altgrad_cli.subjects.corpus.tokens import Corpus, load_corpus
from altgrad_cli.subjects.gpt.layer_names import layer_kind
from altgrad_cli.subjects.gpt.model import GPT, cross_entropy, initialize
from altgrad_cli.subjects.subject import Draw, Subject


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


def load_gpt(config: TrainConfig) -> Subject:
    """The GPT of ``config`` on its corpus.

    Raises:
        DataError: the corpus cannot be found, read, tokenized or split, or is too short.
    """
    corpus = load_corpus(config.data, config.model.block_size)
    return gpt_subject(config, corpus.vocab_size, corpus)


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
