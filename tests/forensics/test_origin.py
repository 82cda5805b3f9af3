"""The run, its log and the diagnosis of its checkpoint say one origin and one step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.subjects.gpt.layer_names import layer_kinds
from altgrad_cli.surgery.precision_plan import plan_precision
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import CheckpointSaved, RunEnded
from altgrad_cli.training.origin import first_operand
from tests.forensics.conftest import FAILING, diagnose
from tests.small import small

OVERFLOWING = ("fp8_format=E5M2", "precision.regime=standard", "precision.overflow=ieee")
FAILURES = [
    # The rounding itself makes inf, so no operand of this layer was ever given one.
    (*OVERFLOWING, "inject=amax@3:blocks.1.mlp.c_fc:gradients"),
    (*OVERFLOWING, "inject=spike@3:blocks.0.attn.c_proj:activations"),
    (*OVERFLOWING, "inject=amax@3:blocks.2.attn.c_attn:weights"),
    # What no linear layer rounds: the embedding, the moments, the updated weight.
    ("inject=nan@3:data",),
    ("inject=nan@3:optimizer",),
    ("precision.regime=uniform", "inject=nan@3:blocks.1.mlp.c_proj:stored_weights"),
    # An operand, as it was given.
    ("inject=inf@3:blocks.2.mlp.c_proj:gradients",),
    ("inject=nan@3:lm_head:activations",),
    ("inject=nan@3:blocks.0.mlp.c_fc:weights",),
    ("inject=bitflip@3:blocks.1.attn.c_attn:gradients", *OVERFLOWING),
    # A patient run stops ten steps later, and still speaks of the first step of the streak.
    ("nan_policy=patience", "max_steps=14", *(f"inject={','.join(f'nan@{n}:data' for n in range(3, 13))}",)),
]


@pytest.mark.parametrize("overrides", FAILURES, ids=lambda overrides: " ".join(overrides)[:70])
def test_the_run_blames_what_its_diagnosis_blames(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    events = list(train(small(*FAILING, *overrides), run_dir=tmp_path))
    (saved,) = (
        event for event in events if isinstance(event, CheckpointSaved) and "anomaly" in str(event.path)
    )
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    document = diagnose(tmp_path / str(saved.path), Questions())
    first = document["first_nonfinite"]
    assert ended.reason == f"non-finite from step 3: {document['failure']['trigger']}"
    assert f"{first['role']} of {first['module']}" in ended.reason
    assert document["failure"]["recorded_trigger"] == document["failure"]["trigger"]
    number = re.fullmatch(r"checkpoints/anomaly_step_(\d+)\.pt", str(saved.path))
    assert number is not None
    steps = {saved.step, int(number[1]), first["step"], document["failure"]["step"]}
    assert steps | {document["failure"]["captured_at"]} == {3}


def test_the_counts_name_the_first_operand_in_execution_order() -> None:
    """By hand: forward before backward, the last layer first on the way back."""
    names = ["blocks.0.attn.c_attn", "blocks.0.mlp.c_fc", "blocks.0.mlp.c_proj"]
    config = load_config("base", ["fp8_format=E5M2", "precision.regime=standard"])
    plan = plan_precision(config.precision, "E5M2", layer_kinds(names))
    stats = torch.zeros(3, len(OPERAND_ROLES), len(STATS), dtype=torch.float64)
    assert first_operand(stats, plan, "ieee") is None
    nonfinite, overflow = STATS.index("nonfinite"), STATS.index("overflow")
    stats[0, 2, nonfinite] = 4
    assert first_operand(stats, plan, "ieee") == (0, "gradients")
    stats[2, 2, overflow] = 1
    assert first_operand(stats, plan, "saturate") == (0, "gradients")
    assert first_operand(stats, plan, "ieee") == (2, "gradients")
    stats[1, 1, nonfinite] = torch.nan  # nothing was rounded there
    stats[2, 1, nonfinite] = 1
    assert first_operand(stats, plan, "ieee") == (2, "activations")
    finite = plan_precision(config.precision, "E3M4", layer_kinds(names))
    stats[:, :2] = 0
    assert first_operand(stats, finite, "ieee") == (0, "gradients")
