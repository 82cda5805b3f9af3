"""From a configuration to tokens, training and validation apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from altgrad_cli.data.batches import TokenFile
from altgrad_cli.data.config import DataConfig
from altgrad_cli.data.legislator import draft_acts


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Two splits of token ids and what they stand for."""

    train: TokenFile
    validation: TokenFile
    tokenizer: str
    vocab_size: int
    fingerprint: str
    """sha256 over the vocabulary and both splits: equal fingerprints, equal batches."""
    source: str
    """Where the documents came from, in words: layout found, documents in each split."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids; bytes that are no whole character become U+FFFD."""
        return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")


def load_corpus(config: DataConfig, block_size: int) -> Corpus:
    """Tokens of the configured corpus, ready for blocks of ``block_size``."""
    acts = draft_acts()
    held_out = round(len(acts) * config.validation_fraction)
    by_hash = sorted(acts, key=lambda act: hashlib.sha256(act.encode()).digest())
    unseen = set(by_hash[:held_out])
    splits = [
        np.frombuffer("\n\n".join(act for act in acts if (act in unseen) is validation).encode(), np.uint8)
        for validation in (False, True)
    ]
    train, validation = (TokenFile(tokens.astype(np.uint16)) for tokens in splits)
    digest = hashlib.sha256(train.tokens.tobytes() + validation.tokens.tobytes()).hexdigest()
    source = f"embedded legal English, {len(acts) - held_out} + {held_out} acts"
    return Corpus(train, validation, "bytes", 256, digest, source)
