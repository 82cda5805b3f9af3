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
from altgrad_cli.subjects.corpus.documents import Documents, as_documents, hold_out, load_documents
from altgrad_cli.subjects.corpus.hub import fetch
from altgrad_cli.subjects.corpus.records import Document, Reading
from altgrad_cli.subjects.corpus.token_cache import CachedTokens
from altgrad_cli.subjects.corpus.tokenizers import Tokenizer, byte_tokenizer, gpt2_tokenizer, train_bpe
from altgrad_cli.subjects.legal_english.legislator import draft_statute_book

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
    tokens = prepared_tokens(config)
    split, inside = evaluated_part(len(tokens.validation), config.evaluate_on)
    part = tokens.validation[inside]
    for named, ids in (("training split", tokens.train), (split, part)):
        if len(ids) <= block_size:
            raise DataError(
                f"the {named} has {len(ids)} tokens, one block needs {block_size + 1}",
                where=str(config.path or config.hub or "data"),
                hint="use more text, a smaller block, or another data.validation_fraction",
            )
    return replace(whole_corpus(tokens), validation=part)


def prepared_tokens(config: DataConfig, *, labelled: bool = False) -> CachedTokens:
    """Both splits of the configured corpus as token ids, through the cache.

    Args:
        labelled: only the documents that have labels, each tokenized by itself; ``about["documents"]`` then
            has of each split the documents' numbers of tokens (``lengths``) and their ``labels``.

    Raises:
        DataError: as ``load_corpus``, or no document has labels.
    """
    files = _files(config)
    key = _cache_key(config, files, labelled=labelled)
    folder = token_cache.cache_folder(config.cache_dir)
    path = None if folder is None else folder / "tokens" / f"{key[:40]}.safetensors"
    tokens = None if path is None else token_cache.open_tokens(path, key)
    if tokens is None:
        tokens = _prepare(config, files, labelled=labelled)
        if path is not None and token_cache.store_tokens(path, key, tokens):
            tokens = token_cache.open_tokens(path, key) or tokens
    if tokens.about["without_text"]:
        place = config.path or config.hub
        _log.warning("%s: left out %d documents without text", place, tokens.about["without_text"])
    return tokens


def whole_corpus(tokens: CachedTokens) -> Corpus:
    """Both splits, whole."""
    about: Mapping[str, Any] = tokens.about
    tokenizer = _tokenizer_from_json(about["tokenizer"])
    return Corpus(
        train=tokens.train,
        validation=tokens.validation,
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        fingerprint=about["fingerprint"],
        source=about["source"],
        _tokenizer=tokenizer,
    )


def evaluated_part(length: int, part: str) -> tuple[str, slice]:
    """Where ``data.evaluate_on`` lies in a validation split of ``length``, and what it is called.

    The halves have nothing in common.
    """
    middle = length // 2
    return {
        "validation": ("validation split", slice(length)),
        "tuning": ("first half of the validation split (tuning)", slice(middle)),
        "final": ("second half of the validation split (final)", slice(middle, length)),
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


def _cache_key(config: DataConfig, files: Sequence[CorpusFile], *, labelled: bool) -> str:
    """sha256 over everything that the tokens depend on."""
    settings = [
        config.hub,
        config.tokenizer,
        config.language,
        config.text_field,
        config.validation_fraction,
        *(["labelled"] if labelled else []),
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


def _prepare(config: DataConfig, files: Sequence[CorpusFile], *, labelled: bool) -> CachedTokens:
    """Reads, splits and tokenizes the corpus."""
    gpt2 = gpt2_tokenizer() if config.tokenizer == "gpt2" else None  # fails before a long read, not after
    documents = _documents(config, files, labelled=labelled)
    size = bpe_vocabulary_size(config.tokenizer)
    tokenizer = gpt2 or (byte_tokenizer() if size is None else train_bpe(documents.train, size))
    described = _tokenizer_to_json(tokenizer)
    digest = hashlib.sha256(json.dumps(described).encode())
    about: dict[str, object] = {}
    if labelled:
        train, of_train = _each(tokenizer, documents.train, documents.train_labels)
        validation, of_validation = _each(tokenizer, documents.validation, documents.validation_labels)
        about["documents"] = {"train": of_train, "validation": of_validation}
        digest.update(json.dumps(about).encode())
    else:
        train, validation = tokenizer.encode(documents.train), tokenizer.encode(documents.validation)
    for ids in (train, validation):
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<u4").tobytes())
    source = documents.source
    if size is not None and tokenizer.vocab_size < size:
        source += f"; {tokenizer.vocab_size} symbols only, as the text has no more pairs to merge"
    about |= {
        "source": source,
        "fingerprint": digest.hexdigest(),
        "tokenizer": described,
        "without_text": documents.without_text,
    }
    return CachedTokens(train, validation, about)


def _each(
    tokenizer: Tokenizer, texts: Sequence[str], labels: Sequence[Sequence[str]]
) -> tuple[np.ndarray, dict[str, object]]:
    """The texts, each by itself, behind one another; and what is said about the documents."""
    ids = [tokenizer.encode([text]) for text in texts]
    return np.concatenate(ids), {"lengths": [len(text) for text in ids], "labels": [*map(list, labels)]}


def _documents(config: DataConfig, files: Sequence[CorpusFile], *, labelled: bool) -> Documents:
    if files:
        reading = Reading(config.language, config.text_field, labels=labelled)
        documents = load_documents(files, reading, config.validation_fraction)
        return replace(documents, source=f"{config.hub}, {documents.source}") if config.hub else documents
    acts = [Document(act.text, "", labels=act.labels if labelled else None) for act in draft_statute_book()]
    train, validation, how = hold_out(acts, config.validation_fraction)
    return as_documents(
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
