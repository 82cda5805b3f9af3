"""Runs made side by side are those of one process; claims are judged as they come in, and none is lost."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from altgrad_cli.claims.bench import FROZEN, BenchRun, RunKey
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.making import make_runs, wanted_runs
from altgrad_cli.claims.measured import MeasuredClaim, Unmeasured, measure_claims
from altgrad_cli.config.loading import load_config
from altgrad_cli.sweeps.executors.local import LocalExecutor
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Evaluated, RunStarted, StepCompleted
from tests.claims.planted import PlantedBench
from tests.small import SETTINGS

STORED = ("precision.regime=uniform", "fp8_format=E4M3", "max_steps=4")
LOST = ("precision.regime=standard", "fp8_format=E5M2", "precision.overflow=ieee", "learning_rate=3")
"""Whose every update but the first is dropped."""
SETTING = (*SETTINGS, "nan_policy=patience")
CLOCK = "tokens_per_second"


def made_side_by_side(folder: Path) -> dict[RunKey, BenchRun | str]:
    with closing(LocalExecutor(2)) as executor:
        return dict(
            make_runs([(2, STORED), (2, LOST), (1, ("data.path=nowhere.txt",))], folder, executor, SETTING)
        )


def test_runs_side_by_side_are_what_the_engine_tells_alone(tmp_path: Path) -> None:
    """Bit for bit: so the same comes of every number of jobs."""
    runs = made_side_by_side(tmp_path)
    assert list(tmp_path.glob("run-*")) == []
    for arm in (STORED, LOST):
        config = load_config("base", [*SETTING, *arm, "seed=2"])
        events = list(train(config))
        steps = [event for event in events if isinstance(event, StepCompleted)]
        last = [event for event in events if isinstance(event, Evaluated)][-1].validation_loss
        run = runs[2, arm]
        assert isinstance(run, BenchRun)
        assert run.validation_loss == (last if last is not None and math.isfinite(last) else math.inf)
        assert run.lost_updates == 1 - sum(step.committed for step in steps) / config.max_steps
        for name in {name for step in steps for name in step.metrics} - {CLOCK}:
            values = [step.metrics[name] for step in steps if step.metrics.get(name) is not None]
            assert np.array_equal(run.metric(name), np.array(values, dtype=float), equal_nan=True), name
        predicted = next(event for event in events if isinstance(event, RunStarted)).predicted_stall
        assert run.predicted_stall == (predicted["first_step"] if predicted else None)
        assert (run.predicted_stall is not None) == (arm == STORED)
        lost = (7 / 8, math.inf) if arm == LOST else (0, run.validation_loss)
        assert (run.lost_updates, run.validation_loss) == lost
    why = runs[1, ("data.path=nowhere.txt",)]
    assert isinstance(why, str) and "nowhere.txt" in why


def test_a_claim_is_judged_with_its_last_run_and_once() -> None:
    claims = [CLAIMS[name] for name in ("fp8-pair", "accumulate", "saturate")]
    bench = PlantedBench()
    wanted = wanted_runs(claims, bench.seeds)
    assert len(set(wanted)) == len(wanted) < sum(len(claim.arms) for claim in claims) * 3  # some are shared
    seen = 0

    def counted() -> object:
        nonlocal seen
        for each in bench.made(wanted):
            seen += 1
            yield each

    came = [(each.claim.name, seen) for each in measure_claims(claims, counted(), bench.seeds)]  # type: ignore[arg-type]
    assert came == [("accumulate", 0), ("fp8-pair", 12), ("saturate", 15)]


def test_a_missing_run_costs_only_the_claims_that_read_it() -> None:
    names = ("powers-of-two", "fixed-point", "invisible-updates")
    claims = [CLAIMS[name] for name in names]
    bench = PlantedBench(metrics=lambda arm: {"apparent_stall_rate": 1.0})
    wanted = wanted_runs(claims, bench.seeds)
    runs = [(key, "the disk is full" if key == (2, FROZEN) else run) for key, run in bench.made(wanted)]
    found = list(measure_claims(claims, runs, bench.seeds))
    assert sorted(each.claim.name for each in found) == sorted(names)
    assert {each.why for each in found if isinstance(each, Unmeasured)} == {"the disk is full"}
    assert [each.claim.name for each in found if isinstance(each, MeasuredClaim)] == ["invisible-updates"]


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.trains])
def test_seeds_are_whole(name: str) -> None:
    wanted = wanted_runs([CLAIMS[name]], (1, 2, 3))
    assert len(wanted) == 3 * len(set(CLAIMS[name].arms))
