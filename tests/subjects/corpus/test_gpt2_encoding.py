"""GPT-2's vocabulary with a cache, without one, with a damaged one, and with peers that do not answer."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
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
    began = time.monotonic()
    with pytest.raises(
        DataError, match="GPT-2's vocabulary is not cached and cannot be downloaded"
    ) as refused:
        load_gpt2_encoding()
    assert time.monotonic() - began < 5
    assert refused.value.hint is not None
    assert "TIKTOKEN_CACHE_DIR" in refused.value.hint
    assert "\n" not in refused.value.message
    assert tiktoken.load.read_file is not gpt2_encoding.read_file  # tiktoken is left as it was


def test_a_damaged_cache_offline_is_the_same_error(cached: Path) -> None:
    for file in cached.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="not cached and cannot be downloaded"):
        load_gpt2_encoding()


def test_a_peer_that_stays_silent_does_not_hold_a_fresh_process(silent_peer: str, tmp_path: Path) -> None:
    """The whole process, interpreter start and exit included, is over within five seconds."""
    code = (
        "from altgrad_cli.subjects.corpus.gpt2_encoding import load_gpt2_encoding\n"
        "from altgrad_cli.errors import DataError\n"
        "try:\n    load_gpt2_encoding()\n"
        "except DataError as error:\n    print(error.message)\n"
    )
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"HTTPS_PROXY": silent_peer, "TIKTOKEN_CACHE_DIR": str(tmp_path / "none")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert time.monotonic() - began < 5
    assert ended.stdout.endswith("cannot be downloaded: no answer for 3 seconds\n")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by path: a whole file, a refusal, or a byte now and then for ever."""

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/whole":
            self.wfile.write(b"a" * 10_000)
        while self.path == "/trickle":
            try:
                self.wfile.write(b"a" * 5_000)
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_downloads(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert gpt2_encoding.read_file(f"{server}/whole") == b"a" * 10_000
    with pytest.raises(OSError, match="404"):
        gpt2_encoding.read_file(f"{server}/missing")
    monkeypatch.setattr(gpt2_encoding, "DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(TimeoutError):
        gpt2_encoding.read_file(f"{server}/trickle")


def test_something_else_in_its_place_is_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hotel's log-in page, say: tiktoken compares the hash."""
    monkeypatch.setattr(gpt2_encoding, "read_file", lambda _: b"<html>Welcome, guest</html>")
    with pytest.raises(DataError, match="cannot be downloaded"):
        load_gpt2_encoding()
