"""GPT-2's encoding through tiktoken, with the patience that tiktoken's download lacks.

tiktoken keeps the vocabulary in ``$TIKTOKEN_CACHE_DIR`` (else a folder for temporary files), removes a
damaged file there, and downloads what is missing with no time limit at all: a peer that accepts the
connection and then stays silent holds it for ever. Here the download runs in a thread of its own and is
given up after ``SILENCE_SECONDS`` without a byte, whether that is name look-up, connecting or reading.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import tiktoken
import tiktoken.load

from altgrad_cli.errors import DataError

SILENCE_SECONDS = 3.0
DOWNLOAD_SECONDS = 120.0
_CHUNK_BYTES = 4096


def load_gpt2_encoding() -> tiktoken.Encoding:
    """tiktoken's ``gpt2``. Raises DataError when it is neither cached nor to be had over the network."""
    try:
        with _patient_downloads():
            return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise DataError(
            f"GPT-2's vocabulary is not cached and cannot be downloaded: {_in_short(error)}",
            where="data.tokenizer",
            hint=(
                "set TIKTOKEN_CACHE_DIR to a folder that holds it, run once with a network,"
                " or take data.tokenizer=bytes or bpe:4096, which need neither"
            ),
        ) from error


def _in_short(error: Exception) -> str:
    """The innermost reason in one line; requests wraps a refusal in three layers of repr."""
    if isinstance(error, TimeoutError):
        return str(error)
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text}" if len(text) < 100 else type(error).__name__


@contextmanager
def _patient_downloads() -> Iterator[None]:
    """tiktoken's one function that touches the network, replaced while the encoding is made."""
    original = tiktoken.load.read_file
    tiktoken.load.read_file = read_file
    try:
        yield
    finally:
        tiktoken.load.read_file = original


def read_file(blobpath: str) -> bytes:
    """What the address holds, under tiktoken's name for this.

    Raises TimeoutError after ``SILENCE_SECONDS`` without a byte or ``DOWNLOAD_SECONDS`` in all, else what
    requests raises.
    """
    received: queue.Queue[bytes | Exception | None] = queue.Queue()
    threading.Thread(target=_download, args=(blobpath, received), daemon=True).start()
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    chunks: list[bytes] = []
    while True:
        try:
            chunk = received.get(timeout=max(0.0, min(SILENCE_SECONDS, deadline - time.monotonic())))
        except queue.Empty:
            raise TimeoutError(f"no answer for {SILENCE_SECONDS:.0f} seconds") from None
        if chunk is None:
            return b"".join(chunks)
        if isinstance(chunk, Exception):
            raise chunk
        chunks.append(chunk)


def _download(url: str, received: queue.Queue[bytes | Exception | None]) -> None:
    """Puts the content of ``url`` piece by piece into ``received``, then None; or the error that ended it."""
    import requests  # tiktoken's dependency, which like tiktoken we load only where it is needed

    try:
        with requests.get(url, stream=True, timeout=SILENCE_SECONDS) as response:
            response.raise_for_status()
            for chunk in response.iter_content(_CHUNK_BYTES):
                received.put(chunk)
        received.put(None)
    except (OSError, ValueError) as error:
        received.put(error)
