"""The smallest saving set: against every subset by brute force, and planted in a real step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, combinations

import pytest

from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.bisection import minimal_bf16_layers, minimal_set
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.forensics.step_again.variations import Trials
from tests.forensics.conftest import Capture

NAMES = tuple("abcdefgh")


def smallest_by_brute_force(families: Sequence[frozenset[str]]) -> int:
    subsets = chain.from_iterable(combinations(NAMES, size) for size in range(len(NAMES) + 1))
    return next(len(subset) for subset in subsets if any(family <= set(subset) for family in families))


@pytest.mark.parametrize("seed", range(40))
def test_the_smallest_set_is_found(seed: int) -> None:
    rng = random.Random(seed)
    families = [
        frozenset(rng.sample(NAMES, rng.randrange(0 if seed == 0 else 1, 5)))
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    found = minimal_set(NAMES, lambda names: any(family <= set(names) for family in families))
    assert found is not None
    assert any(family <= set(found) for family in families)
    assert len(found) == smallest_by_brute_force(families)
    assert list(found) == sorted(found)


def test_nothing_needed_and_nothing_that_helps() -> None:
    assert minimal_set(NAMES, lambda names: True) == ()
    assert minimal_set(NAMES, lambda names: False) is None


def test_one_needed_layer_takes_few_tries() -> None:
    many = [f"layer{n}" for n in range(64)]
    tried = 0

    def saves(names: Sequence[str]) -> bool:
        nonlocal tried
        tried += 1
        return "layer41" in names

    assert minimal_set(many, saves) == ("layer41",)
    assert tried <= 16


@pytest.mark.parametrize(
    "planted",
    [
        ("blocks.1.mlp.c_fc",),
        ("blocks.0.attn.c_attn", "blocks.2.mlp.c_proj"),
        ("blocks.0.attn.c_proj", "blocks.1.attn.c_attn", "blocks.2.mlp.c_fc"),
    ],
)
def test_a_planted_set_is_found(capture: Capture, planted: tuple[str, ...]) -> None:
    """Only the planted layers are on a grid that overflows to inf: unscaled, with a maximum of 15/4096."""
    rules = ", ".join(
        f'{{pattern: "{name}", format: "E3M4:ieee:bias=15", scaling: none}}' for name in planted
    )
    path = capture(
        "precision.regime=standard",
        "fp8_format=E5M2",
        "precision.overflow=ieee",
        "precision.scaling.recipe=amax",
        f"precision.rules=[{rules}]",
    )
    evidence = open_checkpoint(path)
    assert isinstance(evidence, OpenedCheckpoint)
    assert minimal_bf16_layers(Trials(rebuild(evidence), None)) == planted


def test_a_planted_fault_is_saved_by_no_layers(capture: Capture) -> None:
    path = capture("precision.regime=standard", "inject=nan@2:blocks.1.mlp.c_fc:gradients")
    evidence = open_checkpoint(path)
    assert isinstance(evidence, OpenedCheckpoint)
    assert minimal_bf16_layers(Trials(rebuild(evidence), None)) is None
