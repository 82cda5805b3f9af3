"""A data set by its Hub name: from a cache laid out as huggingface_hub lays it out, and without one."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus import hub
from altgrad_cli.subjects.corpus.tokens import load_corpus

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "coastalcph/lex_glue:eurlex"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache, and nobody at the other end."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    return tmp_path / "hub"


def put(cache: Path, files: Path | None, branch: str = "main", config: str = "eurlex") -> None:
    """Lays ``files`` into the cache as a downloaded snapshot of the LexGLUE data set."""
    repository = cache / "datasets--coastalcph--lex_glue"
    reference = repository / "refs" / branch
    reference.parent.mkdir(parents=True, exist_ok=True)
    commit = COMMIT if branch == "main" else COMMIT[::-1]
    reference.write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    if files is not None:
        shutil.copytree(files, snapshot / config, copy_function=shutil.copyfile)


def test_a_cached_data_set_needs_no_network(hub_cache: Path, shared_data: Path) -> None:
    put(hub_cache, shared_data / "hub_layout/coastalcph_lex_glue/eurlex")
    assert hub.fetch(NAME).name == "eurlex"
    found = load_corpus(DataConfig(hub=NAME), 64)
    assert found.source.startswith(
        f"{NAME}, LexGLUE (text and labels): 2 training and 2 validation documents"
    )


def test_a_script_on_main_sends_us_to_the_converted_branch(hub_cache: Path, shared_data: Path) -> None:
    put(hub_cache, None)
    put(hub_cache, shared_data / "hub_layout/coastalcph_lex_glue/eurlex", "refs/convert/parquet")
    assert hub.fetch(NAME).parent.name == COMMIT[::-1]


def test_offline_is_one_clear_error() -> None:
    with pytest.raises(DataError, match="neither cached nor to be had from the Hub") as refused:
        hub.fetch(NAME)
    assert refused.value.where == f"data.hub={NAME}"
    assert refused.value.hint is not None
    assert "\n" not in refused.value.message


def test_a_silent_peer_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=endpoint))
        with pytest.raises(DataError, match="neither cached nor to be had"):
            hub.fetch(NAME)


def test_a_name_look_up_that_never_ends_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time limit of an HTTP library covers that one."""
    for_ever = threading.Event()

    class Patient:
        def repo_info(self, *_: object, **__: object) -> None:
            for_ever.wait(30)

    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(huggingface_hub, "HfApi", Patient)
    with pytest.raises(DataError, match=r"no answer for 0\.2 seconds"):
        hub.fetch(NAME)
    for_ever.set()


@pytest.mark.parametrize("name", ["not a name", "a/b/c:d", "", ":eurlex"])
def test_names_that_no_data_set_has(name: str) -> None:
    with pytest.raises(DataError) as refused:
        hub.fetch(name)
    assert refused.value.where == f"data.hub={name}"


def test_without_huggingface_hub_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="huggingface_hub, which is not installed") as refused:
        hub.fetch(NAME)
    assert refused.value.hint == "pip install 'altgrad[hub]'"
