"""The one small run that the tests share: two layers, milliseconds a step, a text of a few thousand bytes."""

from __future__ import annotations

from pathlib import Path

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig

LAW = Path(__file__).with_name("small.txt")
"""Eighty short documents in one text, no two alike."""

SETTINGS = (
    f"data.path={LAW}",
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=32",
    "model.block_size=16",
    "batch_size=4",
    "max_steps=8",
    "learning_rate=1e-3",
    "optimizer.warmup_steps=0",
    "diagnostic_interval=2",
    "runtime.evaluation_interval=4",
    "runtime.evaluation_batches=2",
    "runtime.checkpoint_interval=3",
)


def small(*overrides: str) -> TrainConfig:
    """``small("fp8_format=E7M0", ...)``: a run of eight steps, with what a test needs otherwise."""
    return load_config("base", [*SETTINGS, *overrides])


ARGUMENTS = ("smoke", *SETTINGS)
"""The same for a command line: ``altgrad train smoke data.path=...``."""

LABELLED = Path(__file__).with_name("labelled.jsonl")
"""Fifty short documents: some without a label, one with a label of its own, one that nobody labelled."""

LABELS = ("subject=eurovoc", f"data.path={LABELLED}")
"""What makes the small run one of labels; some documents are shorter than its block."""
