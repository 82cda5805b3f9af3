"""``load_corpus``: from a configuration to two splits of tokens, through the cache.

The cache key is made of the corpus' bytes, the settings that change what is read from them, and the code of
this room, so that neither edited text nor an edited reader is ever answered with old tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from altgrad_cli.config.data import DataConfig, bpe_vocabulary_size
from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus import token_cache
from altgrad_cli.subjects.corpus.content import unreadable
from altgrad_cli.subjects.corpus.corpus_files import CorpusFile, find_files
from altgrad_cli.subjects.corpus.documents import Documents, hold_out, load_documents
from altgrad_cli.subjects.corpus.hub import fetch
from altgrad_cli.subjects.corpus.records import Reading
from altgrad_cli.subjects.corpus.token_cache import CachedTokens
from altgrad_cli.subjects.corpus.tokenizers import Tokenizer, byte_tokenizer, gpt2_tokenizer, train_bpe
from altgrad_cli.subjects.legal_english.legislator import draft_acts

_log = logging.getLogger("altgrad_cli.data")


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Two splits of token ids and what they stand for."""

    train: np.ndarray
    """Token ids, 1-D, unsigned; a read-only memory map of the cache file where there is one."""
    validation: np.ndarray
    """The same: what ``data.evaluate_on`` names, the whole split or one of its halves."""
    tokenizer: str
    """``bytes``, ``gpt2`` or ``bpe:N`` as configured."""
    vocab_size: int
    """Symbols there are; for ``bpe:N`` fewer than N when the text had no more pairs to merge."""
    fingerprint: str
    """sha256 over the vocabulary and both whole splits: equal fingerprints, equal batches to train on."""
    source: str
    """Where the documents came from, in words: layout found, documents in each split, how they were split."""
    _tokenizer: Tokenizer = field(repr=False)

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str:
        """The text of token ids, 1-D; bytes that are no whole character become U+FFFD."""
        return self._tokenizer.decode(tokens if isinstance(tokens, Sequence) else tokens.tolist())


def load_corpus(config: DataConfig, block_size: int) -> Corpus:
    """The configured corpus as tokens, each split long enough for a block of ``block_size``.

    Raises DataError when the corpus cannot be found, read, tokenized or split, or is too short.
    """
    files = _files(config)
    key = _cache_key(config, files)
    folder = token_cache.cache_folder(config.cache_dir)
    path = None if folder is None else folder / "tokens" / f"{key[:40]}.safetensors"
    tokens = None if path is None else token_cache.open_tokens(path, key)
    if tokens is None:
        tokens = _prepare(config, files)
        if path is not None and token_cache.store_tokens(path, key, tokens):
            tokens = token_cache.open_tokens(path, key) or tokens
    split, part = _evaluated(tokens.validation, config.evaluate_on)
    for named, ids in (("training split", tokens.train), (split, part)):
        if len(ids) <= block_size:
            raise DataError(
                f"the {named} has {len(ids)} tokens, one block needs {block_size + 1}",
                where=str(config.path or config.hub or "data"),
                hint="use more text, a smaller block, or another data.validation_fraction",
            )
    about: Mapping[str, Any] = tokens.about
    if about["without_text"]:
        place = config.path or config.hub
        _log.warning("%s: left out %d documents without text", place, about["without_text"])
    tokenizer = _tokenizer_from_json(about["tokenizer"])
    return Corpus(
        train=tokens.train,
        validation=part,
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        fingerprint=about["fingerprint"],
        source=about["source"],
        _tokenizer=tokenizer,
    )


def _evaluated(validation: np.ndarray, part: str) -> tuple[str, np.ndarray]:
    """The tokens of ``data.evaluate_on``, and what they are called; the halves have no token in common."""
    middle = len(validation) // 2
    return {
        "validation": ("validation split", validation),
        "tuning": ("first half of the validation split (tuning)", validation[:middle]),
        "final": ("second half of the validation split (final)", validation[middle:]),
    }[part]


def _files(config: DataConfig) -> list[CorpusFile]:
    """The corpus' files; none for the embedded one."""
    if config.hub is not None:
        return find_files(fetch(config.hub))
    if config.path is not None:
        try:
            return find_files(Path(config.path).expanduser())
        except RuntimeError as error:  # ~nobody/law.txt
            raise DataError(str(error), where=f"data.path={config.path}") from error
    return []


def _cache_key(config: DataConfig, files: Sequence[CorpusFile]) -> str:
    """sha256 over everything that the tokens depend on."""
    settings = [
        config.hub,
        config.tokenizer,
        config.language,
        config.text_field,
        config.validation_fraction,
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for code in sorted(Path(__file__).parents[1].glob("*/*.py")):
        digest.update(code.read_bytes())
    for file in files:
        try:
            with file.path.open("rb") as content:
                of_content = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(file.path, error) from error
        digest.update(json.dumps([file.path.name, file.split, of_content]).encode())
    return digest.hexdigest()


def _prepare(config: DataConfig, files: Sequence[CorpusFile]) -> CachedTokens:
    """Reads, splits and tokenizes the corpus."""
    gpt2 = gpt2_tokenizer() if config.tokenizer == "gpt2" else None  # fails before a long read, not after
    documents = _documents(config, files)
    size = bpe_vocabulary_size(config.tokenizer)
    tokenizer = gpt2 or (byte_tokenizer() if size is None else train_bpe(documents.train, size))
    train, validation = tokenizer.encode(documents.train), tokenizer.encode(documents.validation)
    described = _tokenizer_to_json(tokenizer)
    digest = hashlib.sha256(json.dumps(described).encode())
    for ids in (train, validation):
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
    source = documents.source
    if size is not None and tokenizer.vocab_size < size:
        source += f"; {tokenizer.vocab_size} symbols only, as the text has no more pairs to merge"
    about = {
        "source": source,
        "fingerprint": digest.hexdigest(),
        "tokenizer": described,
        "without_text": documents.without_text,
    }
    return CachedTokens(train, validation, about)


def _documents(config: DataConfig, files: Sequence[CorpusFile]) -> Documents:
    if files:
        reading = Reading(config.language, config.text_field)
        documents = load_documents(files, reading, config.validation_fraction)
        return replace(documents, source=f"{config.hub}, {documents.source}") if config.hub else documents
    train, validation, how = hold_out(draft_acts(), config.validation_fraction)
    return Documents(
        train,
        validation,
        f"embedded legal English: {len(train)} training and {len(validation)} validation documents, {how}",
    )


def _tokenizer_to_json(tokenizer: Tokenizer) -> dict[str, object]:
    symbols = tokenizer.symbols
    return {
        "name": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "symbols": None if symbols is None else [base64.b64encode(symbol).decode() for symbol in symbols],
        "pattern": tokenizer.pattern,
    }


def _tokenizer_from_json(found: Mapping[str, Any]) -> Tokenizer:
    symbols = found["symbols"]
    return Tokenizer(
        name=found["name"],
        vocab_size=found["vocab_size"],
        symbols=None if symbols is None else tuple(base64.b64decode(symbol) for symbol in symbols),
        pattern=found["pattern"],
    )
