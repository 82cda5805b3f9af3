"""GPT-2's vocabulary with a cache, without one, with a damaged one, and with peers that do not answer."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus import gpt2_encoding
from altgrad_cli.subjects.corpus.gpt2_encoding import load_gpt2_encoding
from altgrad_cli.subjects.corpus.tokenizers import Tokenizer, gpt2_tokenizer

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tiktoken remembers encodings; every test starts without, with an empty cache and no way out."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cached(shared_data: Path, tmp_path: Path) -> Path:
    """A copy: tiktoken deletes what it finds damaged."""
    (tmp_path / "tiktoken").mkdir()
    for file in (shared_data / "gpt2/tiktoken_cache").iterdir():
        shutil.copyfile(file, tmp_path / "tiktoken" / file.name)
    return tmp_path / "tiktoken"


@pytest.fixture
def silent_peer() -> Iterator[str]:
    """Accepts connections, by the kernel's courtesy, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("cached")
def test_a_cached_vocabulary_needs_no_network() -> None:
    tokenizer = gpt2_tokenizer()
    assert tokenizer == Tokenizer("gpt2", 50_257, None, "")
    assert tokenizer.encode(["Hello world"]).tolist() == [15496, 995]  # as in OpenAI's own examples
    assert tokenizer.decode([15496, 995]) == "Hello world"
    assert tokenizer.encode(["<|endoftext|>"]).tolist() != [50_256]  # text, not a control symbol


def test_offline_without_a_cache_is_one_clear_error() -> None:
    with pytest.raises(
        DataError, match="GPT-2's vocabulary is not cached and cannot be downloaded"
    ) as refused:
        load_gpt2_encoding()
    assert refused.value.hint is not None
    assert "TIKTOKEN_CACHE_DIR" in refused.value.hint
    assert "\n" not in refused.value.message


@pytest.mark.usefixtures("cached")
def test_a_cache_that_is_read_slowly_is_waited_for_where_the_network_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, make, ask = threading.Event(), gpt2_encoding._make, gpt2_encoding._ask

    def slowly() -> tiktoken.Encoding:
        assert refused.wait(60)
        return make()

    def and_say_so() -> None:
        ask()
        refused.set()

    monkeypatch.setattr(gpt2_encoding, "_make", slowly)
    monkeypatch.setattr(gpt2_encoding, "_ask", and_say_so)
    assert load_gpt2_encoding().n_vocab == 50_257


def test_a_damaged_cache_offline_is_the_same_error(cached: Path) -> None:
    for file in cached.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="not cached and cannot be downloaded"):
        load_gpt2_encoding()


def test_a_peer_that_stays_silent_does_not_hold_a_fresh_process(silent_peer: str, tmp_path: Path) -> None:
    """The whole process ends, although the thread that asks never does."""
    code = (
        "from altgrad_cli.subjects.corpus.gpt2_encoding import load_gpt2_encoding\n"
        "from altgrad_cli.errors import DataError\n"
        "try:\n    load_gpt2_encoding()\n"
        "except DataError as error:\n    print(error.message)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"HTTPS_PROXY": silent_peer, "TIKTOKEN_CACHE_DIR": str(tmp_path / "none")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert ended.stdout.endswith("cannot be downloaded: no answer for 2 seconds\n")


def test_a_slow_download_is_waited_for_where_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()
    encoding = tiktoken.Encoding("slow", pat_str=".", mergeable_ranks={b"a": 0}, special_tokens={})

    def slow(_: str) -> tiktoken.Encoding:
        arrived.wait(20)
        return encoding

    monkeypatch.setattr(gpt2_encoding, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(tiktoken, "get_encoding", slow)
    monkeypatch.setattr(gpt2_encoding, "_ask", arrived.set)
    assert load_gpt2_encoding() is encoding


def test_something_else_in_its_place_is_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hotel's log-in page, say: tiktoken compares the hash."""
    monkeypatch.setattr(tiktoken.load, "read_file", lambda _: b"<html>Welcome, guest</html>")
    with pytest.raises(DataError, match="cannot be downloaded"):
        load_gpt2_encoding()
