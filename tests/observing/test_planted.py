"""Planted faults in a loop of one's own: the place named, the weights intact, the step again elsewhere."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from altgrad_cli import observe
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from tests.conftest import needed
from tests.observing import planted

ROOT = Path(__file__).resolve().parents[2]
HEAD = "lm_head"
LAYERS = {
    "cnn": ["first", "second", "answer"],
    "gpt2": [
        *(
            f"transformer.h.{block}.{part}"
            for block, part in product((0, 1), ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
        ),
        HEAD,
    ],
}
PHASES = {
    "weights": "forward",
    "activations": "forward",
    "gradients": "backward",
    "stored_weights": "optimizer",
}
KINDS = ("nan", "inf", "spike")
"""A spike is finite, and becomes inf in the rounding: E5M2 with ``overflow: ieee``."""
CASES = [
    (name, *case)
    for name in LAYERS
    for case in product(LAYERS[name], PHASES, KINDS)
    if case[1:] != ("stored_weights", "spike")  # on a float32 master that is a finite update
    if case[:2] != (HEAD, "stored_weights")  # its weight is the embedding's
]
SHORT = random.Random(7).sample(CASES, 4)


def subject_of(name: str) -> str:
    return f"{planted.__file__}:{name}"


def lying(model: nn.Module, name: str, value: torch.Tensor) -> torch.Tensor:
    """A Conv1D's weight lies as (in, out); a checkpoint has (out, in)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return value.T if type(owner).__name__ == "Conv1D" and name.endswith(".weight") else value


def captured(case: tuple[str, str, str, str], folder: Path) -> Path:
    """The checkpoint of a loop of three steps whose third is struck; its weights are those before it."""
    name, layer, role, kind = case
    subject = getattr(planted, name)(None)
    torch.manual_seed(1)
    model = subject.build(torch.Generator())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    overflow = ["overflow=ieee", "head_format=E5M2", "scaling.margin=64"] if kind == "spike" else []
    further = [f"precision.{key}" for key in overflow]
    with observe(
        model,
        optimizer,
        run_dir=folder,
        nan_policy="drop",
        subject=subject_of(name),
        settings=[f"inject=['{kind}@3:{layer}:{role}']", "monitors.enabled=false", *further],
    ):
        for step in range(3):
            given = subject.train(torch.Generator().manual_seed(step))
            before = {key: value.detach().clone() for key, value in model.named_parameters()}
            subject.loss(model(given.x), given.y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())
    path = folder / "checkpoints" / "anomaly_step_3.pt"
    opened = open_checkpoint(path)
    assert isinstance(opened, OpenedCheckpoint)
    assert opened.saved.weights.keys() == before.keys()
    for key, value in opened.saved.weights.items():
        assert torch.equal(before[key], lying(model, key, value)), key
    return path


def check(cases: list[tuple[str, str, str, str]], folder: Path) -> None:
    """Capture each; then, in one new process, diagnose and repeat each with its subject."""
    paths = [captured(case, folder / str(number)) for number, case in enumerate(cases)]
    asked = [[str(path), subject_of(case[0])] for path, case in zip(paths, cases, strict=True)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.observing.replaying"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == len(cases)
    wrong = []
    for case, found in zip(cases, answers, strict=True):
        _, layer, role, kind = case
        expected = [layer, role, PHASES[role]]
        value = {"nan": {"NaN", "nan"}, "inf": {"inf", "Infinity"}}.get(kind, {"inf", "-inf"})
        named = found["place"][:3] == expected and found["place"][3] in value
        if not named or not found["bit_exact"] or not found["compared"]:
            wrong.append((case, found))
    assert not wrong, wrong


def test_planted_faults_are_named_and_can_be_replayed(tmp_path: Path) -> None:
    needed("transformers")
    check(SHORT, tmp_path)


def test_there_are_a_hundred_of_them() -> None:
    assert len(CASES) >= 100 and len(set(CASES)) == len(CASES)


@pytest.mark.campaign
def test_every_planted_fault(tmp_path: Path) -> None:
    needed("transformers")
    check(CASES, tmp_path)
