"""The cache answers with exactly what was stored, or not at all."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from altgrad_cli.subjects.corpus.token_cache import CachedTokens, cache_folder, open_tokens, store_tokens

KEY = "0" * 64


def tokens(dtype: type[np.unsignedinteger] = np.uint16, seed: int = 0) -> CachedTokens:
    draw = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    return CachedTokens(
        draw.integers(0, top, 21, dtype, endpoint=True),
        draw.integers(0, top, 3, dtype, endpoint=True),
        {"source": "über"},
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_what_was_stored_comes_back_as_a_read_only_memory_map(
    tmp_path: Path, dtype: type[np.unsignedinteger]
) -> None:
    path = tmp_path / "deep" / "law.safetensors"
    stored = tokens(dtype)
    assert open_tokens(path, KEY) is None
    assert store_tokens(path, KEY, stored)
    found = open_tokens(path, KEY)
    assert found is not None
    for ids, expected in ((found.train, stored.train), (found.validation, stored.validation)):
        assert isinstance(ids, np.memmap)
        assert ids.dtype == dtype
        assert not ids.flags.writeable
        np.testing.assert_array_equal(ids, expected)
    assert found.about == stored.about
    assert [file.name for file in path.parent.iterdir()] == ["law.safetensors"]
    by_the_library = load_file(path)
    np.testing.assert_array_equal(by_the_library["train"], stored.train)
    np.testing.assert_array_equal(by_the_library["validation"], stored.validation)


def test_every_single_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "law.safetensors"
    store_tokens(path, KEY, tokens())
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        assert open_tokens(path, KEY) is None, position
    assert "its checksum does not match" in caplog.text


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "law.safetensors"
    store_tokens(path, KEY, tokens())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert open_tokens(path, KEY) is None, length
    path.write_bytes(whole + b"\x00")
    assert open_tokens(path, KEY) is None


def test_a_file_under_another_key_is_not_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_tokens(tmp_path / "law.safetensors", KEY, tokens())
    assert open_tokens(tmp_path / "law.safetensors", "1" * 64) is None
    assert "another corpus" in caplog.text


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not store_tokens(tmp_path / "file" / "law.safetensors", KEY, tokens())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot write" in caplog.text
    assert caplog.records[0].name == "altgrad_cli.data"


def test_a_full_disk_leaves_neither_half_a_file_nor_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store_tokens(tmp_path / "law.safetensors", KEY, tokens(seed=1))
    before = (tmp_path / "law.safetensors").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    assert not store_tokens(tmp_path / "law.safetensors", KEY, tokens(seed=2))
    assert [file.name for file in tmp_path.iterdir()] == ["law.safetensors"]
    assert (tmp_path / "law.safetensors").read_bytes() == before
    assert "no space left" in caplog.text


def test_a_map_outlives_its_file_being_replaced(tmp_path: Path) -> None:
    first, second = tokens(seed=1), tokens(seed=2)
    store_tokens(tmp_path / "law.safetensors", KEY, first)
    opened = open_tokens(tmp_path / "law.safetensors", KEY)
    assert opened is not None
    store_tokens(tmp_path / "law.safetensors", KEY, second)
    np.testing.assert_array_equal(opened.train, first.train)


def _write_and_read(path: Path, seed: int, failures: multiprocessing.Queue[str]) -> None:  # type: ignore[type-arg]
    known = [tokens(seed=one).train.tobytes() for one in range(4)]
    for _ in range(40):
        store_tokens(path, KEY, tokens(seed=seed))
        found = open_tokens(path, KEY)
        if found is None or found.train.tobytes() not in known:
            failures.put("a reader saw something that nobody had written")


def test_processes_that_write_the_same_file_never_see_half_of_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    writers = [
        context.Process(target=_write_and_read, args=(tmp_path / "law.safetensors", seed, failures))
        for seed in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert failures.empty()
    assert [file.name for file in tmp_path.iterdir()] == ["law.safetensors"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("ALTGRAD_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(str(tmp_path / "configured")) == tmp_path / "configured"
    assert cache_folder(None) == tmp_path / "own"
    monkeypatch.delenv("ALTGRAD_CACHE")
    assert cache_folder(None) == tmp_path / "xdg" / "altgrad"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "altgrad"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ALTGRAD_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder(None) is None
