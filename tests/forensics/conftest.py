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
    "model.n_layer=3",
    "max_steps=4",
    "runtime.evaluation_interval=4",
    "runtime.checkpoint_interval=0",
    "nan_policy=first",
    "use_shadow=false",
)
"""What is changed of the small run."""

Capture = Callable[..., Path]


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
