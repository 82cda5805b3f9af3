"""Wherever a fault is planted, the diagnosis names exactly that place, in a new process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.forensics.conftest import Capture

BLOCKS = 3
LAYERS = [
    f"blocks.{block}.{name}"
    for block in range(BLOCKS)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]
ROLES = ("weights", "activations", "gradients", "stored_weights", "optimizer_state")
PHASES = {
    "weights": "forward",
    "activations": "forward",
    "gradients": "backward",
    "stored_weights": "optimizer",
    "optimizer_state": "state",
}
CASES = [
    (kind, layer, role, regime)
    for kind in ("nan", "inf")
    for layer in [*LAYERS, "lm_head"]
    for role in ROLES
    for regime in ("standard", "uniform")
    if not (layer == "lm_head" and role in ("stored_weights", "optimizer_state"))
]
Case = tuple[str, str, str, str]

DIAGNOSE_ALL = """
import json, sys
from pathlib import Path
from altgrad_cli.forensics.diagnosis import Questions, diagnose
from altgrad_cli.training.events import to_json_value
for path in sys.argv[1:]:
    document = diagnose(Path(path), Questions()).to_json()
    keys = ("failure", "first_nonfinite", "mechanism", "trust", "amax_suspects")
    kept = {key: document[key] for key in keys}
    print(json.dumps(to_json_value(kept)))
"""


def diagnose_in_a_new_process(paths: Sequence[Path]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", DIAGNOSE_ALL, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_named(capture: Capture, cases: Sequence[Case]) -> None:
    paths = [
        capture(
            f"inject={kind}@3:{layer}:{role}",
            f"precision.regime={regime}",
            "fp8_format=E3M4",
            "precision.overflow=saturate",
        )
        for kind, layer, role, regime in cases
    ]
    for case, document in zip(cases, diagnose_in_a_new_process(paths), strict=True):
        kind, layer, role, _ = case
        first = document["first_nonfinite"]
        (struck,) = document["trust"]["injected"]["struck"]
        assert document["failure"]["class"] == "nonfinite", case
        assert document["failure"]["step"] == 3, case
        named = (first["phase"], first["module"], first["role"], first["index"])
        assert named == (PHASES[role], layer, role, struck["index"]), case
        assert first["value"] == {"nan": "NaN", "inf": "Infinity"}[kind], case
        assert first["input_finite"] is (role != "optimizer_state"), case
        assert first["producer"] == ("state" if role == "optimizer_state" else "unexplained"), case
        assert document["mechanism"]["stage"] == "not the format's fault", case


def test_a_dozen_places_are_named(capture: Capture) -> None:
    assert_named(capture, random.Random(5).sample(CASES, 12))


@pytest.mark.campaign
def test_every_place_is_named(capture: Capture) -> None:
    assert_named(capture, CASES)


def test_data_optimizer_and_amax_history_are_told_apart(capture: Capture) -> None:
    base = ("precision.regime=standard", "fp8_format=E5M2", "precision.overflow=ieee")
    faults = (
        "nan@3:data",
        "inf@3:optimizer",
        "amax@3:blocks.1.mlp.c_fc:activations",
        "amax@3:blocks.2.attn.c_proj:gradients",
    )
    # margin 16: nothing overflows but where the history lies
    paths = [capture(*base, "precision.scaling.margin=16", f"inject={fault}") for fault in faults]
    data, optimizer, activations, gradients = diagnose_in_a_new_process(paths)

    assert (data["first_nonfinite"]["module"], data["first_nonfinite"]["producer"]) == ("wte", "data")
    assert data["mechanism"]["stage"] == "not the format's fault"
    assert "the embedded batch was not finite" in data["mechanism"]["evidence"][0]

    first = optimizer["first_nonfinite"]
    assert (first["phase"], first["role"], first["producer"]) == ("state", "optimizer_state", "state")
    assert "Adam's moments" in optimizer["mechanism"]["evidence"][0]

    for document, module, role in (
        (activations, "blocks.1.mlp.c_fc", "activations"),
        (gradients, "blocks.2.attn.c_proj", "gradients"),
    ):
        first = document["first_nonfinite"]
        assert (first["module"], first["role"], first["producer"]) == (module, role, "rounding")
        (suspect,) = document["amax_suspects"]
        assert (suspect["module"], suspect["role"]) == (module, role)
        assert any("amax history" in line for line in document["mechanism"]["evidence"])
    assert data["amax_suspects"] == optimizer["amax_suspects"] == []


def test_a_natural_overflow_is_the_gradients_fault(capture: Capture) -> None:
    """E5M2 with inf and a scale without headroom: gradients outgrow it while the loss is still finite."""
    path = capture(
        "precision.regime=standard",
        "fp8_format=E5M2",
        "precision.overflow=ieee",
        "precision.scaling.margin=0.5",
        "model.n_embd=32",
        "max_steps=30",
    )
    (document,) = diagnose_in_a_new_process([path])
    first = document["first_nonfinite"]
    assert document["trust"]["injected"] == {"planned": [], "struck": []}
    assert first["producer"] == "rounding"
    assert first["input_finite"] is True
    assert abs(first["value_before_rounding"] / first["scale"]) >= 61440
    assert first["code"] in (0x7C, 0xFC)  # the codes of inf
    role_stage = {
        "weights": "forward precision",
        "activations": "forward precision",
        "gradients": "gradient fidelity",
    }
    assert document["mechanism"]["stage"] == role_stage[first["role"]]
    assert "with every rounding bypassed the step survives" in document["mechanism"]["evidence"]
