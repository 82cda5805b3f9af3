"""Planted faults in a loop of one's own: the place named, the weights intact, the step again elsewhere."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
import torch

from altgrad_cli import observe
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay import replay
from tests.observing import planted

LAYERS = {
    "cnn": ["first", "second", "answer"],
    "gpt2": [
        *(f"transformer.h.{n}.{part}" for n in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")),
    ],
}
ROLES = ("weights", "activations", "gradients", "stored_weights")
CASES = sorted((name, *case) for name in LAYERS for case in product(LAYERS[name], ROLES, ("nan", "inf")))
SHORT = random.Random(7).sample(CASES, 4)


def check(name: str, layer: str, role: str, kind: str, folder: Path, *, again: bool) -> None:
    subject = getattr(planted, name)(None)
    torch.manual_seed(1)
    model = subject.build(torch.Generator())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    fault = f"{kind}@3:{layer}:{role}"
    lab = observe(
        model,
        optimizer,
        run_dir=folder / "run",
        nan_policy="drop",
        subject=f"{planted.__file__}:{name}",
        settings=[f"inject=['{fault}']", "monitors.enabled=false"],
    )
    for step in range(3):
        given = subject.train(torch.Generator().manual_seed(step))
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        subject.loss(model(given.x), given.y).backward()
        optimizer.step()
        optimizer.zero_grad()
    lab.close()
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())
    path = folder / "run" / "checkpoints" / "anomaly_step_3.pt"
    opened = open_checkpoint(path)
    assert isinstance(opened, OpenedCheckpoint)
    assert opened.saved.failure is not None
    assert f"{role} of {layer}" in str(opened.saved.failure.trigger) or role == "stored_weights"
    for key, value in opened.saved.weights.items():  # of a Conv1D as (out, in)
        lying = value.T if key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else value
        assert torch.equal(before[key], lying), key
    if again:
        found = replay(opened, subject=f"{planted.__file__}:{name}")
        assert found.bit_exact, found


@pytest.mark.parametrize("case", SHORT, ids="-".join)
def test_a_planted_fault_is_named_and_can_be_replayed(case: tuple[str, ...], tmp_path: Path) -> None:
    if case[0] == "gpt2":
        pytest.importorskip("transformers")
    check(*case, tmp_path, again=True)  # type: ignore[misc]


@pytest.mark.campaign
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_planted_fault(case: tuple[str, ...], tmp_path: Path) -> None:
    check(*case, tmp_path, again=True)  # type: ignore[misc]
