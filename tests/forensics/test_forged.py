"""A sealed file with a forged payload: one error or a diagnosis, never anything else."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from altgrad_cli.checkpoints.file import content_hash, read_checkpoint, write_checkpoint
from altgrad_cli.checkpoints.payload import Checkpoint, to_plain
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.forensics import diagnosis
from altgrad_cli.forensics.diagnosis import Questions
from altgrad_cli.reporting.pages.diagnosis.page import diagnosis_page
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.training.events import to_json_value
from tests.forensics.conftest import captured

STRANGE: tuple[Any, ...] = (
    *(3, -1, 1e308, float("nan"), "x", "", None, True, "\x1b[31m"),
    *([], [1], {}, {"a": 1}, torch.zeros(2)),
)
Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    fault = "inject=nan@3:blocks.1.mlp.c_fc:gradients"
    folder = tmp_path_factory.mktemp("forged")
    return read_checkpoint(captured(folder, "precision.regime=uniform", "fp8_format=E5M2", fault))


def places(value: Any, prefix: Path_ = ()) -> list[Path_]:
    """Every place in nested dictionaries, and the first and last items of lists."""
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*prefix, key))
    elif isinstance(value, list) and value:
        for number in {0, 1, len(value) - 1} & set(range(len(value))):
            found += places(value[number], (*prefix, number))
    return found


def forge(payload: dict[str, Any], rng: random.Random) -> tuple[Path_, dict[str, Any]]:
    """A copy in which one place is gone or holds something strange."""
    forged = copy.deepcopy(payload)
    everywhere = [place for place in places(payload) if place[0] not in ("gradient", "optimizer")]
    place = rng.choice([p for p in everywhere if len(p) == 1] if rng.random() < 0.3 else everywhere)
    node: Any = forged
    for key in place[:-1]:
        node = node[key]
    if rng.random() < 0.15:
        del node[place[-1]]
    else:
        node[place[-1]] = rng.choice(STRANGE)
    return place, forged


def torment(payload: dict[str, Any], path: Path, count: int, seed: int) -> None:
    rng, refused = random.Random(seed), 0
    for _ in range(count):
        place, forged = forge(payload, rng)
        write_checkpoint(path, forged)
        try:
            diagnosed = diagnosis.diagnose(path, Questions())
        except UsageError:
            refused += 1
            continue
        json.dumps(to_json_value(diagnosed.to_json()), allow_nan=False)
        text = to_markdown(diagnosis_page(diagnosed), None)
        assert "\x1b" not in text, place
    assert 0 < refused < count


def test_forged_payloads(payload: dict[str, Any], tmp_path: Path) -> None:
    torment(payload, tmp_path / "x.pt", 40, seed=1)


@pytest.mark.campaign
def test_a_thousand_forged_payloads(payload: dict[str, Any], tmp_path: Path) -> None:
    torment(payload, tmp_path / "x.pt", 1000, seed=2)


def test_an_honest_payload_has_the_shape(payload: dict[str, Any]) -> None:
    back = to_plain(Checkpoint.from_plain(payload, "x.pt"))
    for key in payload.keys() - {"failure", "monitors"}:  # these two hold more than a diagnosis reads
        assert content_hash(back[key]) == content_hash(payload[key]), key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.pop("weights"), "weights is missing"),
        (lambda p: p.update(step=True), "step is a bool"),
        (lambda p: p.update(step=1.5), "step is a float"),
        (lambda p: p["trace"][2].pop("hash"), "trace.2.hash is missing"),
        (lambda p: p["trace"][2].update(value="NaN"), "trace.2.value is a str"),
        (lambda p: p["quantizers"][0]["roles"].update(gradients=3), "quantizers.0.roles.gradients is a int"),
        (lambda p: p.update(history={}), "history is a dict"),
        (lambda p: p["corpus"].update({3: "x"}), "corpus is a dict"),
    ],
)
def test_what_does_not_fit_is_named(payload: dict[str, Any], change: Any, words: str) -> None:
    forged = copy.deepcopy(payload)
    change(forged)
    with pytest.raises(CheckpointError) as refused:
        Checkpoint.from_plain(forged, "x.pt")
    assert refused.value.message.endswith(words)
