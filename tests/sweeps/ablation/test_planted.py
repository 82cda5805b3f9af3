"""Damage planted in one role of some layers is found there, by training, and nowhere else.

What is planted is known by construction; a run is small, real training of less than a second.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.record import RunRecord, build_record
from altgrad_cli.sweeps.ablation.layers import LayerAttribution, attribute_layers, loss_noise
from altgrad_cli.sweeps.results import SweepRecord, assemble
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.training.events import event_to_json

KINDS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True)
class Plant:
    """A rule that does damage, or none (``format`` empty)."""

    pattern: str
    format: str
    role: str
    scaling: str = "none"
    regime: str = "fp32"
    order: str = "E5M2"
    n_layer: int = 2
    n_embd: int = 32
    steps: int = 60
    seed: int = 1
    also: tuple[tuple[str, str, str], ...] = ()
    """Further plants: pattern, format, role."""

    @property
    def rules(self) -> str:
        planted = [(self.pattern, self.format, self.role, self.scaling)]
        planted += [(*other, "none") for other in self.also]
        return ", ".join(
            f'{{pattern: "{pattern}", format: "{name}", roles: [{role}], scaling: {scaling}}}'
            for pattern, name, role, scaling in planted
        )

    def layers(self, pattern: str | None = None) -> set[str]:
        names = [f"blocks.{block}.{kind}" for block in range(self.n_layer) for kind in KINDS]
        return {name for name in [*names, "lm_head"] if fnmatchcase(name, pattern or self.pattern)}

    @property
    def truth(self) -> dict[str, set[str]]:
        """Role -> the layers in which it was spoiled."""
        return {self.role: self.layers(), **{role: self.layers(where) for where, _, role in self.also}}


LOUD = {
    "gradients": "E1M6",  # its smallest value is a thousand times the largest gradient
    "stored_weights": "E7M0",  # an update would have to be half of its weight
    "weights": "E3M4:bias=0",  # three standard deviations of the initial weights round to zero
    "activations": "E1M6:bias=5",  # ends at an eighth of what a LayerNorm gives out
}
"""Role -> a format that spoils it beyond doubt, unscaled."""
QUIET = (("activations", "E7M0"), ("gradients", "E7M0"), ("weights", "E4M3"), ("activations", "E1M6"))

Trained = Callable[[TrainConfig], RunRecord]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """The record of a configuration's run; every configuration is trained once."""
    from altgrad_cli.training.engine import train

    known: dict[TrainConfig, RunRecord] = {}

    def record(config: TrainConfig) -> RunRecord:
        if config not in known:
            lines: Iterator[dict[str, Any]] = (
                json.loads(json.dumps(event_to_json(event))) for event in train(config, run_dir=None)
            )
            known[config] = build_record(Path("run"), lines)
        return known[config]

    return record


def base(plant: Plant) -> TrainConfig:
    rules = [f"precision.rules=[{plant.rules}]"] if plant.format else []
    settings = {
        "model.n_layer": plant.n_layer,
        "model.n_embd": plant.n_embd,
        "model.n_head": 2,
        "model.block_size": 32,
        "batch_size": 4,
        "max_steps": plant.steps,
        "seed": plant.seed,
        "optimizer.warmup_steps": 20,
        "runtime.evaluation_interval": 20,
        "runtime.evaluation_batches": 4,
        "precision.regime": plant.regime,
    }
    return load_config("base", [f"{key}={value}" for key, value in settings.items()] + rules)


def sweep(plant: Plant, trained: Trained) -> SweepRecord:
    """The sweep with ``--attribute`` over ``plant``, carried out to its end."""
    spec = SweepSpec(base=base(plant), order=(plant.order,), retries=False, attribute=True)
    records: dict[str, RunRecord] = {}
    while True:
        result = assemble(Path("sweep"), spec, records)
        if not result.unfinished:
            return result
        records |= {due.arm.name: trained(due.arm.config) for due in result.unfinished}


def named(result: SweepRecord) -> dict[str, set[str]]:
    return {found.role: set(found.layers) for found in result.layer_attributions() if found.confirmed}


def loud(role: str, pattern: str, **changes: Any) -> Plant:
    return Plant(pattern, LOUD[role], role, **changes)


def check(plant: Plant, trained: Trained) -> None:
    assert named(sweep(plant, trained)) == plant.truth, plant


@pytest.mark.parametrize(
    "plant",
    [
        loud("gradients", "blocks.1.mlp.c_proj"),
        loud("gradients", "*"),
        loud("stored_weights", "blocks.1.*"),
        loud("weights", "blocks.0.mlp.c_fc"),
        loud("activations", "*.attn.c_attn"),
        Plant("blocks.1.attn.c_proj", "E3M4", "weights"),
        loud("gradients", "blocks.0.attn.c_attn", regime="standard", order="E3M4"),
        loud("stored_weights", "blocks.0.mlp.c_fc", also=(("blocks.1.attn.c_proj", "E1M6", "gradients"),)),
    ],
    ids=lambda plant: f"{plant.role} of {plant.pattern}, {plant.regime}",
)
def test_planted_damage_is_attributed_to_its_role_and_layers(plant: Plant, trained: Trained) -> None:
    check(plant, trained)


def test_what_does_no_damage_is_not_named(trained: Trained) -> None:
    """Coarse rounding of one operand, and a regime without any plant."""
    for role, name in QUIET:
        assert named(sweep(Plant("blocks.1.mlp.c_fc", name, role), trained)) == {}, (role, name)
    healthy = sweep(Plant("", "", "", regime="standard", order="E3M4"), trained)
    assert healthy.layer_attributions() == []
    assert not healthy.stage_attributions()


def test_without_a_rescue_that_gives_something_back_nothing_is_named(trained: Trained) -> None:
    plant = loud("gradients", "blocks.1.mlp.c_proj")
    result = sweep(plant, trained)
    arm = next(row.arm for row in result.arms if row.arm.kind == "format")
    run = trained(arm.config)

    def confirmed(rescue: Any) -> list[LayerAttribution]:
        return [a for a in attribute_layers(arm.name, arm.config, run, lambda _: rescue, 0.0) if a.confirmed]

    assert confirmed(result.findings["fp32"].record)
    assert not confirmed(run), "a rescue that changes nothing"
    assert not confirmed(None), "a rescue that was not run"


def test_the_rescue_of_a_lone_rule_is_the_fp32_control(trained: Trained) -> None:
    result = sweep(loud("gradients", "blocks.1.mlp.c_proj"), trained)
    assert [row.arm.name for row in result.arms] == ["fp32", "frozen", "bf16", "e1m6-fp32"]
    (row,) = result.to_json()["places"]
    assert (row["role"], row["stage"], row["cause"]) == ("gradients", "gradient fidelity", "underflow")
    assert row["layers"] == ["blocks.1.mlp.c_proj"]
    assert {loss["layer"] for loss in row["given_back"]} == {"blocks.1.mlp.c_fc", "blocks.1.mlp.c_proj"}
    by_name = {name: finding.record.validation for name, finding in result.findings.items()}
    noise = loss_noise(fp32=by_name["fp32"], bf16=by_name["bf16"], frozen=by_name["frozen"])
    assert row["val_loss_noise"] == noise, "what BF16 makes of fp32, and not what freezing does"


def test_layers_that_hide_behind_others_come_to_light(trained: Trained) -> None:
    """With the head's gradients gone no other layer is handed any: they show once the head is rescued."""
    result = sweep(loud("gradients", "*"), trained)
    (found,) = result.layer_attributions()
    assert [each.layer for each in found.troubled if not each.hidden] == ["lm_head"]
    assert sum(each.hidden for each in found.troubled) == 8


def random_plant(numbers: random.Random) -> Plant:
    n_layer = numbers.choice((2, 3, 4))
    block = numbers.randrange(n_layer)
    role = numbers.choice(sorted(LOUD))
    kinds = ("attn.c_attn", "mlp.c_fc") if role == "activations" else KINDS
    kind = numbers.choice(kinds)
    patterns = [f"blocks.{block}.{kind}"] * 2 + [f"*.{kind}"]
    if role != "activations":
        patterns += [f"blocks.{block}.*", "blocks.*"]
    regime = numbers.choice(("fp32", "fp32", "standard"))
    return loud(
        role,
        numbers.choice(patterns),
        regime=regime,
        order=numbers.choice(("E5M2", "E3M4")),
        n_layer=n_layer,
        n_embd=numbers.choice((32, 64)),
        steps=numbers.choice((60, 120)),
        seed=numbers.choice((1, 2)),
    )


@pytest.mark.campaign
@pytest.mark.parametrize("number", range(60))
def test_every_plant_is_found(number: int, trained: Trained) -> None:
    check(random_plant(random.Random(number)), trained)


@pytest.mark.campaign
@pytest.mark.parametrize("number", range(30))
def test_quiet_plants_are_never_blamed_on_others(number: int, trained: Trained) -> None:
    numbers = random.Random(number)
    role, name = numbers.choice((*QUIET, ("weights", "E1M6"), ("weights", "E3M4"), ("gradients", "E5M2")))
    pattern = f"blocks.{numbers.randrange(2)}.{numbers.choice(KINDS)}"
    plant = Plant(
        pattern, name, role, seed=numbers.choice((1, 2, 3)), regime=numbers.choice(("fp32", "standard"))
    )
    assert named(sweep(plant, trained)) in ({}, plant.truth), plant
