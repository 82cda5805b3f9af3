"""``load_corpus`` from end to end, the cache included."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus import tokens
from altgrad_cli.subjects.corpus.batches import draw_batch
from altgrad_cli.subjects.corpus.tokens import Corpus, load_corpus
from altgrad_cli.subjects.legal_english import legislator


def write_law(folder: Path, acts: int = 30) -> Path:
    path = folder / "law.jsonl"
    path.write_text("".join(json.dumps({"text": act}) + "\n" for act in legislator.draft_acts(acts)))
    return path


def cache_file(of: Corpus) -> Path:
    assert isinstance(of.train, np.memmap)
    return Path(str(of.train.filename))


def same(one: Corpus, other: Corpus) -> bool:
    return (
        np.array_equal(one.train, other.train)
        and np.array_equal(one.validation, other.validation)
        and one.fingerprint == other.fingerprint
        and one.source == other.source
        and one.vocab_size == other.vocab_size
    )


def test_the_embedded_corpus() -> None:
    found = load_corpus(DataConfig(), 64)
    assert found.source == (
        "embedded legal English: 360 training and 40 validation documents, split by document"
    )
    assert (found.tokenizer, found.vocab_size) == ("bytes", 256)
    acts = set(legislator.draft_acts())
    train = found.decode(found.train).split("\n\n")
    validation = found.decode(found.validation).split("\n\n")
    assert set(train) | set(validation) == acts
    assert not set(train) & set(validation)
    assert len(found.train) + len(found.validation) >= 2_000_000


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_the_second_time_tokens_come_from_the_cache(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(write_law(tmp_path)), tokenizer=tokenizer)
    first = load_corpus(config, 64)
    monkeypatch.setattr(tokens, "_prepare", None)
    second = load_corpus(config, 64)
    assert same(first, second)
    assert cache_file(second).is_relative_to(tmp_path / "altgrad-cache")
    batch = draw_batch(second.train, 2, 64, torch.Generator().manual_seed(0))
    assert second.decode(batch.x[0]) in second.decode(second.train)


def test_the_cache_goes_by_content_not_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_law(tmp_path)
    first = load_corpus(DataConfig(path=str(path)), 64)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(path, tmp_path / "elsewhere")
    with monkeypatch.context() as only_cache:
        only_cache.setattr(tokens, "_prepare", None)
        assert same(load_corpus(DataConfig(path=str(moved)), 64), first)
    with path.open("w") as edited:
        edited.write(Path(moved).read_text().replace("umbrella", "parasol"))
    assert not same(load_corpus(DataConfig(path=str(path)), 64), first)


def test_every_setting_that_changes_the_tokens_is_part_of_the_key(tmp_path: Path) -> None:
    config = DataConfig(path=str(write_law(tmp_path)))
    first = load_corpus(config, 64)
    for other in (
        replace(config, tokenizer="bpe:300"),
        replace(config, validation_fraction=0.5),
    ):
        assert load_corpus(other, 64).fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "replaced"])
def test_a_damaged_cache_is_noticed_and_rebuilt(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(path=str(write_law(tmp_path)), tokenizer="bpe:300")
    first = load_corpus(config, 64)
    path = cache_file(first)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "truncated": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "emptied": b"",
        "replaced": b"x" * len(whole),
    }[damage]
    path.unlink()
    path.write_bytes(damaged)
    assert same(load_corpus(config, 64), first)
    assert "cannot be used" in caplog.text
    assert path.read_bytes() == whole


def test_without_a_writable_cache_the_corpus_loads_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = DataConfig(path=str(write_law(tmp_path)), cache_dir=str(tmp_path / "file" / "cache"))
    found = load_corpus(config, 64)
    assert not isinstance(found.train, np.memmap)
    assert same(found, load_corpus(replace(config, cache_dir=None), 64))
    assert any(record.levelno == logging.WARNING for record in caplog.records)


def test_real_law_with_trained_merges(shared_data: Path) -> None:
    found = load_corpus(DataConfig(path=str(shared_data / "eurlex57k/train.jsonl"), tokenizer="bpe:1024"), 64)
    assert found.vocab_size == 1024
    assert found.train.dtype == np.uint16
    text = found.decode(found.train)
    assert text.startswith("1.7.2014 EN Official Journal of the European Union L 192/42\n")


def test_merges_that_stopped_early_are_said_and_counted(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_text("to be or not to be " * 20)
    found = load_corpus(DataConfig(path=str(tmp_path / "law.txt"), tokenizer="bpe:4096"), 2)
    assert 256 < found.vocab_size < 300
    assert found.tokenizer == "bpe:4096"
    assert found.source.endswith(f"; {found.vocab_size} symbols only, as the text has no more pairs to merge")


def test_gpt2_tokens_of_tinyshakespeare_are_nanogpts(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nanoGPT's README: train.bin has 301,966 tokens, val.bin has 36,059 tokens."""
    for file in (shared_data / "gpt2/tiktoken_cache").iterdir():  # a copy: tiktoken deletes damaged files
        shutil.copyfile(file, tmp_path / file.name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    config = DataConfig(path=str(shared_data / "tinyshakespeare/input.txt"), tokenizer="gpt2")
    found = load_corpus(config, 256)
    assert (len(found.train), len(found.validation), found.vocab_size) == (301_966, 36_059, 50_257)
    assert found.decode(found.train[:4]) == "First Citizen:\n"


def test_a_corpus_shorter_than_one_block(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_text("x" * 100)
    config = DataConfig(path=str(tmp_path / "law.txt"), validation_fraction=0.5)
    assert len(load_corpus(config, 49).train) == 50
    with pytest.raises(DataError, match="the training split has 50 tokens, one block needs 51") as refused:
        load_corpus(config, 50)
    assert refused.value.exit_code == 2
    with pytest.raises(DataError, match="the validation split has 10 tokens, one block needs 65"):
        load_corpus(replace(config, validation_fraction=0.1), 64)


def test_the_halves_of_the_validation_split_share_no_token_and_leave_none_out(tmp_path: Path) -> None:
    config = DataConfig(path=str(write_law(tmp_path)))
    whole = load_corpus(config, 64)
    tuning, final = (load_corpus(replace(config, evaluate_on=part), 64) for part in ("tuning", "final"))
    assert [*tuning.validation, *final.validation] == list(whole.validation)
    assert 0 <= len(final.validation) - len(tuning.validation) <= 1
    for part in (tuning, final):
        assert np.array_equal(part.train, whole.train)
        assert (part.fingerprint, part.vocab_size) == (whole.fingerprint, whole.vocab_size)


def test_a_half_that_is_too_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_text("x" * 100)
    config = DataConfig(path=str(tmp_path / "law.txt"), validation_fraction=0.5, evaluate_on="tuning")
    assert len(load_corpus(config, 24).validation) == 25
    said = r"the first half of the validation split \(tuning\) has 25 tokens, one block needs 26"
    with pytest.raises(DataError, match=said) as refused:
        load_corpus(config, 25)
    assert "data.validation_fraction" in str(refused.value.hint)


def test_text_that_the_cache_must_not_remember(tmp_path: Path) -> None:
    """An error is never cached, and a corpus that has become readable loads."""
    path = tmp_path / "law.txt"
    path.write_bytes(b"caf\xe9" * 25)
    config = DataConfig(path=str(path), validation_fraction=0.5)
    with pytest.raises(DataError, match="not UTF-8"):
        load_corpus(config, 8)
    path.write_bytes(b"x" * 100)
    assert load_corpus(config, 8).vocab_size == 256


def test_the_home_of_a_user_who_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="home directory") as refused:
        load_corpus(DataConfig(path="~no-such-user/law.txt"), 64)
    assert refused.value.where == "data.path=~no-such-user/law.txt"
    assert not isinstance(load_corpus(DataConfig(cache_dir="~no-such-user/cache"), 64).train, np.memmap)
    assert "no place for a token cache" in caplog.text


def test_a_home_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_law(tmp_path)
    assert "27 training and 3 validation documents" in load_corpus(DataConfig(path="~/law.jsonl"), 64).source
