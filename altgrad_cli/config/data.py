"""What a user may say about data; everything is checked when it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from altgrad_cli.config.limits import check_whole_numbers
from altgrad_cli.errors import ConfigError, DataError, nearest

TOKENIZERS = ("bytes", "gpt2", "bpe:4096")
BPE_VOCABULARY_SIZES = range(257, 100_001)
"""Sizes that ``bpe:N`` takes: below 257 there is nothing to merge, and ``bytes`` says so more clearly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the text comes from and how it becomes tokens."""

    path: str | None = None
    """A .txt, .jsonl, .json or .parquet file, also compressed, or a folder; None: the embedded corpus."""
    hub: str | None = None
    """A data set on the Hugging Face Hub as ``owner/name`` or ``owner/name:config``, instead of a path."""
    tokenizer: str = "bytes"
    """``bytes`` (256 symbols), ``gpt2`` (50,257), or ``bpe:N``, trained on the training split."""
    language: str = "en"
    """Which language of a multilingual corpus (MultiEURLEX) is read."""
    text_field: str | None = None
    """The field or column that holds the text; None: told by the layout, else ``text``."""
    labels: int = 100
    """Labels that ``subject: eurovoc`` learns at most, the most frequent ones; the GPT reads none."""
    validation_fraction: float = 0.1
    """Share of the documents held out, where the corpus does not bring its own validation split."""
    evaluate_on: Literal["validation", "tuning", "final"] = "validation"
    """The whole validation split, its first half (on which a rate is chosen), or its second (the result)."""
    cache_dir: str | None = None
    """Where tokens are cached; None: $ALTGRAD_CACHE, else the user's cache folder."""

    def __post_init__(self) -> None:
        for key in ("path", "hub", "text_field"):
            if getattr(self, key) == "":
                raise ConfigError(
                    f"data.{key} is empty", where=f"data.{key}", hint="leave it out, or say null"
                )
        if self.path is not None and self.hub is not None:
            raise ConfigError(
                "data.path and data.hub are both given", where="data", hint="give one of the two"
            )
        if self.text_field is not None and self.path is None and self.hub is None:
            raise ConfigError(
                "the embedded corpus has no fields",
                where="data.text_field",
                hint="give data.path or data.hub, or leave data.text_field out",
            )
        check_whole_numbers(self, "data.", {"labels": (1, 100_000)})
        if not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(
                f"a validation fraction of {self.validation_fraction} leaves one split without text",
                where="data.validation_fraction",
                allowed="above 0 and below 1",
            )
        bpe_vocabulary_size(self.tokenizer)


def bpe_vocabulary_size(tokenizer: str) -> int | None:
    """The N of ``bpe:N``, None for ``bytes`` and ``gpt2``; anything else is a DataError."""
    if tokenizer in ("bytes", "gpt2"):
        return None
    kind, _, size = tokenizer.partition(":")
    if kind == "bpe" and size.isascii() and size.isdigit() and int(size) in BPE_VOCABULARY_SIZES:
        return int(size)
    guess = None if kind == "bpe" else nearest(tokenizer, TOKENIZERS)
    raise DataError(
        f"unknown tokenizer: {tokenizer}",
        where="data.tokenizer",
        allowed=f"bytes, gpt2, or bpe:N with N from {BPE_VOCABULARY_SIZES[0]} to {BPE_VOCABULARY_SIZES[-1]}",
        hint=f"did you mean {guess}?" if guess else "data.tokenizer=bytes needs no file and no training",
    )
