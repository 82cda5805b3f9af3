"""Runs of milliseconds that end in a forensic checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.forensics import diagnosis
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import CheckpointSaved
from tests.small import small

FAILING = (
    "data.path=null",
    "model.n_layer=3",
    "model.n_embd=16",
    "model.block_size=8",
    "batch_size=2",
    "max_steps=4",
    "runtime.evaluation_interval=4",
    "runtime.checkpoint_interval=0",
    "nan_policy=first",
    "use_shadow=false",
)
"""What is changed of the small run; the embedded corpus is at hand without ``--data``."""

Capture = Callable[..., Path]


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One token cache for all runs of a session: the corpus is drafted once."""
    return str(tmp_path_factory.mktemp("altgrad-cache"))


@pytest.fixture(autouse=True)
def _shared_cache(_isolated_environment: None, corpus_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTGRAD_CACHE", corpus_cache)


def diagnose(path: Path, questions: Questions) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    return diagnosis.diagnose(path, questions).to_json()


def captured(folder: Path, *overrides: str) -> Path:
    """The anomaly checkpoint that a small run leaves in ``folder``."""
    for event in train(small(*FAILING, *overrides), run_dir=folder):
        if isinstance(event, CheckpointSaved) and event.path and "anomaly" in event.path:
            return folder / "checkpoints" / Path(event.path).name
    raise AssertionError("the run left no anomaly checkpoint")


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """capture("inject=nan@3:data", ...) -> the anomaly checkpoint of a run of its own."""
    count = iter(range(10_000))
    return lambda *overrides: captured(tmp_path / f"run_{next(count)}", *overrides)
