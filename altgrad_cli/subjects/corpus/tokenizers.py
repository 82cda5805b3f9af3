"""Text -> token ids. Every tokenizer is a tiktoken encoding, so decoding and counting are the same for all.

bytes    256 symbols, the UTF-8 bytes themselves; needs no file and no training
bpe:N    byte pairs merged by rustbpe on the training split until there are N symbols
gpt2     OpenAI's 50,257 symbols, from tiktoken's own cache or its download
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import rustbpe
import tiktoken

from altgrad_cli.subjects.corpus.gpt2_encoding import load_gpt2_encoding

BETWEEN_DOCUMENTS = "\n\n"
_DOCUMENTS_AT_ONCE = 256
_EVERY_CHARACTER = r"[\s\S]"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary as data, enough to make the encoding again."""

    name: str
    vocab_size: int
    symbols: tuple[bytes, ...] | None
    """The bytes of every id, in order of merging; None for ``gpt2``, which tiktoken knows."""
    pattern: str
    """Regular expression that cuts text into pieces which no symbol crosses."""

    def encoding(self) -> tiktoken.Encoding:
        """The tiktoken encoding; for ``gpt2`` this may read tiktoken's cache or download."""
        return _encoding(self)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of the texts, 1-D, a blank line between two; uint16 where that is enough, else uint32."""
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        if self.name == "bytes":  # the same ids as the encoding's, without a search for merges
            return np.frombuffer(BETWEEN_DOCUMENTS.join(texts).encode(), np.uint8).astype(dtype)
        encoding = self.encoding()
        ids = [
            np.array(document, dtype)
            for some in _in_portions(texts)
            for document in encoding.encode_ordinary_batch(some, num_threads=os.cpu_count() or 1)
        ]
        return np.concatenate(ids) if ids else np.empty(0, dtype)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are no whole character become U+FFFD."""
        return self.encoding().decode_bytes(ids).decode("utf-8", errors="replace")


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes."""
    return Tokenizer("bytes", 256, tuple(bytes([byte]) for byte in range(256)), _EVERY_CHARACTER)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's vocabulary; loads it at once, so that a missing one is noticed before any text is read."""
    encoding = load_gpt2_encoding()
    return Tokenizer("gpt2", encoding.n_vocab, None, "")


def train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-pair merges learnt from ``texts``, deterministic.

    There are fewer than ``vocab_size`` symbols when the text runs out of pairs to merge: the result's own
    ``vocab_size`` is what counts. Below 256 rustbpe panics; ``config`` refuses that.
    """
    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(iter(texts), vocab_size)
    ranks = sorted((rank, bytes(symbol)) for symbol, rank in trained.get_mergeable_ranks())
    return Tokenizer(
        f"bpe:{vocab_size}", len(ranks), tuple(symbol for _, symbol in ranks), trained.get_pattern()
    )


@lru_cache(maxsize=4)
def _encoding(tokenizer: Tokenizer) -> tiktoken.Encoding:
    if tokenizer.symbols is None:
        return load_gpt2_encoding()
    return tiktoken.Encoding(
        tokenizer.name,
        pat_str=tokenizer.pattern,
        mergeable_ranks={symbol: rank for rank, symbol in enumerate(tokenizer.symbols)},
        special_tokens={},
    )


def _in_portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """``texts`` with what goes between them, some hundred at a time: ids as Python numbers are large."""
    last = len(texts) - 1
    for start in range(0, len(texts), _DOCUMENTS_AT_ONCE):
        some = texts[start : start + _DOCUMENTS_AT_ONCE]
        yield [text + BETWEEN_DOCUMENTS * (start + index < last) for index, text in enumerate(some)]
