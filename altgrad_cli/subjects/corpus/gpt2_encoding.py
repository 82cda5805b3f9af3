"""GPT-2's encoding through tiktoken, with the patience that tiktoken's download lacks.

tiktoken keeps the vocabulary in ``$TIKTOKEN_CACHE_DIR`` (else a folder for temporary files), removes a
damaged file there, and downloads what is missing with no time limit at all: a peer that accepts the
connection and then stays silent holds it for ever.
"""

from __future__ import annotations

import tiktoken

from altgrad_cli.deadline import within
from altgrad_cli.errors import DataError

ANSWER_SECONDS = 2.0
DOWNLOAD_SECONDS = 120.0
_SERVER = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"


def load_gpt2_encoding() -> tiktoken.Encoding:
    """tiktoken's ``gpt2``. Raises DataError when it is neither cached nor to be had over the network."""
    try:
        try:
            return within(ANSWER_SECONDS, _make)
        except TimeoutError:
            within(ANSWER_SECONDS, _ask)
            # The server answers, so the network is slow only, or it refuses, as it would have refused the
            # download: then it is the reading of the cache that takes its time. Either goes on.
            return within(DOWNLOAD_SECONDS, _make)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise DataError(
            f"GPT-2's vocabulary is not cached and cannot be downloaded: {_in_short(error)}",
            where="data.tokenizer",
            hint=(
                "set TIKTOKEN_CACHE_DIR to a folder that holds it, run once with a network,"
                " or take data.tokenizer=bytes or bpe:4096, which need neither"
            ),
        ) from error


def _make() -> tiktoken.Encoding:
    return tiktoken.get_encoding("gpt2")


def _ask() -> None:
    """Raises unless the server that tiktoken downloads from says something, if only that it refuses."""
    import requests  # tiktoken's dependency, which like tiktoken we load only where it is needed

    try:
        requests.head(_SERVER, timeout=ANSWER_SECONDS)
    except requests.Timeout:
        raise
    except requests.ConnectionError:
        return


def _in_short(error: Exception) -> str:
    """The innermost reason in one line; requests wraps a refusal in three layers of repr."""
    text = str(error).splitlines()[0] if str(error) else ""
    if type(error) is TimeoutError or "timed out" in text:
        return f"no answer for {ANSWER_SECONDS:g} seconds"
    return f"{type(error).__name__}: {text}" if len(text) < 100 else type(error).__name__
