from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.subjects.corpus.tokenizers import Tokenizer, byte_tokenizer, train_bpe
from altgrad_cli.subjects.legal_english.legislator import draft_acts

TEXTS = [
    "Article 1\nThe ‘umbrella’ means naïve ☂.\r\n",
    "",
    "<|endoftext|> \t\x00 Whereas: 1 000 000",
    "日本法",
]


@pytest.fixture(scope="module")
def merges() -> Tokenizer:
    return train_bpe(draft_acts(10), 400)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=4))
def test_bytes_are_utf8_and_also_what_the_tiktoken_encoding_says(texts: list[str]) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(texts)
    assert ids.dtype == np.uint16
    assert bytes(ids.tolist()) == "\n\n".join(texts).encode()
    assert tokenizer.encoding().encode_ordinary("\n\n".join(texts)) == ids.tolist()
    assert tokenizer.decode(ids.tolist()) == "\n\n".join(texts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=4))
def test_merged_bytes_decode_to_the_text_they_came_from(merges: Tokenizer, texts: list[str]) -> None:
    assert merges.decode(merges.encode(texts).tolist()) == "\n\n".join(texts)


def test_merged_ids_are_rustbpes_own(merges: Tokenizer) -> None:
    import rustbpe

    oracle = rustbpe.Tokenizer()
    oracle.train_from_iterator(iter(draft_acts(10)), 400)
    text = draft_acts(11)[-1]
    assert merges.encode([text]).tolist() == oracle.encode(text)
    assert merges.vocab_size == oracle.vocab_size == 400


def test_training_merges_is_deterministic_and_shortens_the_text(merges: Tokenizer) -> None:
    assert train_bpe(draft_acts(10), 400) == merges
    act = draft_acts(11)[-1]
    assert len(merges.encode([act])) < 0.6 * len(act.encode())


def test_a_text_without_enough_pairs_gives_fewer_symbols_than_asked() -> None:
    tokenizer = train_bpe(["abc abc"], 4096)
    assert tokenizer.name == "bpe:4096"
    assert 256 <= tokenizer.vocab_size < 300
    assert tokenizer.encoding().n_vocab == tokenizer.vocab_size
    assert train_bpe([""], 4096).vocab_size == 256


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_a_blank_line_stands_between_documents_however_many_there_are(merges: Tokenizer, count: int) -> None:
    texts = [f"act {k}" for k in range(count)]
    assert merges.decode(merges.encode(texts).tolist()) == "\n\n".join(texts)


def test_special_looking_text_is_text(merges: Tokenizer) -> None:
    for tokenizer in (byte_tokenizer(), merges):
        assert tokenizer.decode(tokenizer.encode(TEXTS).tolist()) == "\n\n".join(TEXTS)


def test_a_window_that_cuts_a_character_decodes_to_a_replacement() -> None:
    assert byte_tokenizer().decode(list("é".encode())[1:]) == "\ufffd"


def test_more_than_65536_symbols_need_32_bits() -> None:
    wide = Tokenizer("wide", 70_000, tuple(bytes([k]) for k in range(256)), r"[\s\S]")
    assert wide.encode(["ab"]).dtype == np.uint32
    assert wide.encode(["ab"]).tolist() == [97, 98]
