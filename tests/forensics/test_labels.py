"""A classifier's checkpoint is diagnosed, replayed and asked what-if as a language model's is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from altgrad_cli.checkpoints.file import read_checkpoint, write_checkpoint
from altgrad_cli.errors import CheckpointError
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay import replay
from tests.forensics.conftest import Capture, diagnose
from tests.small import LABELLED, LABELS

FAULT = "inject=nan@3:blocks.1.mlp.c_fc:gradients"


@pytest.fixture
def path(capture: Capture) -> Path:
    return capture(*LABELS, "model.block_size=64", "precision.rounding=stochastic_all", FAULT)


def test_the_step_is_replayed_bit_for_bit(path: Path) -> None:
    opened = open_checkpoint(path)
    assert isinstance(opened, OpenedCheckpoint)
    found = replay(opened)
    assert found.bit_exact is True and found.compared > 150


def test_its_batch_is_shown_as_text_without_padding_and_found_in_the_corpus(path: Path) -> None:
    texts = LABELLED.read_text("utf-8")
    for data in (None, str(LABELLED)):
        batch = diagnose(path, Questions(data=data))["batch"]
        assert batch["equals_corpus"] is (None if data is None else True)
        assert all(sample["text"] in texts and sample["loss_fp32"] > 0 for sample in batch["samples"])


def test_what_would_have_saved_the_step(capture: Capture) -> None:
    settings = ("precision.regime=standard", "fp8_format=E5M2", "precision.overflow=ieee")
    fault = ("precision.scaling.margin=16", "inject=amax@3:blocks.1.mlp.c_fc:gradients")
    path = capture(*LABELS, "model.block_size=16", *settings, *fault)
    found = diagnose(path, Questions(what_if=True, data=str(LABELLED)))
    survivors = {entry["change"] for entry in found["counterfactuals"] if entry["survives"]}
    assert {"gradients left in float32", "saturating instead of inf", "nothing rounded"} <= survivors
    assert found["minimal_bf16_layers"] == ["blocks.1.mlp.c_fc"]


@pytest.mark.parametrize("change", ["token", "padding", "label", "labels", "type"])
def test_a_forged_batch_is_refused(path: Path, change: str) -> None:
    payload = read_checkpoint(path)
    batch = payload["batch"]
    if change == "token":
        batch["x"][0, 0] = 256
    elif change == "padding":
        batch["x"][0, 0] = -2
    elif change == "label":
        batch["y"][0, 0] = float("nan")
    elif change == "labels":
        batch["y"] = batch["y"][:, :-1]
    else:
        batch["y"] = batch["y"].double()
    forged = path.with_name("forged.pt")
    write_checkpoint(forged, payload)
    with pytest.raises(CheckpointError, match="not one that the network can take"):
        diagnose(forged, Questions())


def test_a_head_of_other_labels_than_the_corpus_has_is_refused(path: Path) -> None:
    payload = read_checkpoint(path)
    payload["config"]["data"]["labels"] = 2
    forged = path.with_name("forged.pt")
    write_checkpoint(forged, payload)
    with pytest.raises(CheckpointError, match="the 2 labels of the corpus"):
        diagnose(forged, Questions(data=str(LABELLED)))


def test_another_numbers_documents_are_not_the_corpus(path: Path) -> None:
    payload = read_checkpoint(path)
    for offsets in ([1, 0], [0, 10**6]):
        payload["batch"]["offsets"] = offsets
        forged = path.with_name(f"forged{offsets[0]}.pt")
        write_checkpoint(forged, payload)
        assert diagnose(forged, Questions(data=str(LABELLED)))["batch"]["equals_corpus"] is False
    assert torch.is_tensor(payload["batch"]["x"])
