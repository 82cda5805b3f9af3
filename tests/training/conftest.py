"""A network small enough that a step costs milliseconds, on the embedded corpus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig

TINY = (
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=32",
    "model.block_size=16",
    "batch_size=4",
    "max_steps=6",
    "runtime.evaluation_interval=3",
    "runtime.evaluation_batches=2",
    "optimizer.warmup_steps=0",
    "learning_rate=1e-3",
    "diagnostic_interval=2",
)


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """tiny("fp8_format=E7M0", ...) -> a TrainConfig for a run of six steps."""

    def make(*overrides: Any) -> TrainConfig:
        return load_config("base", [*TINY, *overrides])

    return make


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One token cache for all runs of a session: the corpus is drafted once."""
    return str(tmp_path_factory.mktemp("altgrad-cache"))


@pytest.fixture(autouse=True)
def _shared_cache(_isolated_environment: None, corpus_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTGRAD_CACHE", corpus_cache)
