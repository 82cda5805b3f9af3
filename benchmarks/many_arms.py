"""What 10,000 arms cost besides their runs (``--only many_arms``): planned, resumed and reported.

The runs are logs of eight steps written by hand, so nothing is trained; each act has a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.memory import high_water
from benchmarks.section import Claim, Options, Section, table

if TYPE_CHECKING:
    from altgrad_cli.sweeps.arms import Arm
    from altgrad_cli.sweeps.specification import SweepSpec

LIMIT_SECONDS = 30.0
LIMIT_MIB = 1024.0
SEEDS = 125
"""At 80 arms a seed."""
ACTS = ("plan", "resume", "report")
_STEPS = 8
_RHO = {"E5M2": 0.6, "E3M4": 0.9, "E1M6": 0.7, "E0M7": 0.3, "E7M0": 0.05}
"""Where the runs end between the controls; spread round it, so that no two logs are one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one act; what it imports is in it, Python's own start is not."""

    seconds: float
    mib: float
    """The whole process's peak."""


class Nobody:
    """An executor without room: it carries out nothing, so a sweep that is resumed must lack nothing."""

    def free_slots(self) -> int:
        """None."""
        return 0

    def start(self, task: object) -> None:
        """Never asked."""
        raise AssertionError(task)

    def wait(self, timeout: float) -> list[object]:
        """Nothing happens."""
        return []

    def stop(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is held."""


def section(options: Options) -> Section:
    """Seconds and memory of each act, and of all."""
    seeds = 2 if options.quick else SEEDS
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        arms = write_runs(sweep, seeds)
        measured_in_child("resume", sweep, seeds)  # what finished runs come to is written the first time only
        found = {act: measured_in_child(act, sweep, seeds) for act in ACTS}
    seconds = sum(cost.seconds for cost in found.values())
    peak = max(cost.mib for cost in found.values())
    rows = [(act, f"{cost.seconds:.1f} s", f"{cost.mib:.0f} MiB") for act, cost in found.items()]
    lines = [
        f"## A sweep of {arms:,} arms, less its runs",
        "",
        f"Five formats and three controls at ten learning rates, {seeds} seeds; logs of {_STEPS} steps.",
        "`resume` reads all logs, plans, judges and writes `sweep.json`; `report` reads them again, and",
        f"writes Markdown. Load of the machine before: {load:.1f}.",
        "",
        *table(("act", "time", "peak of the process"), rows),
        "",
    ]
    claims = (
        Claim(f"{arms:,} arms planned, resumed and reported", seconds, LIMIT_SECONDS, "s"),
        Claim(f"{arms:,} arms, peak memory", peak, LIMIT_MIB, "MiB"),
    )
    return Section(lines=tuple(lines), claims=claims)


def specification(seeds: int) -> SweepSpec:
    """Eight arms at ten rates, for so many seeds."""
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.sweeps.specification import SweepSpec, parse_axes

    rates = ",".join(f"{count}e-4" for count in range(1, 11))
    axes = parse_axes([f"learning_rate={rates}"])
    return SweepSpec(
        base=load_config("smoke"), order=tuple(_RHO), seeds=tuple(range(seeds)), axes=axes, retries=False
    )


def write_runs(sweep: Path, seeds: int) -> int:
    """The logs of every arm of the plan, finished; how many there are."""
    from altgrad_cli.sweeps.plan import plan_sweep

    chance = random.Random(0)
    arms = plan_sweep(specification(seeds), {})
    for arm in arms:
        run = sweep / arm.name
        run.mkdir(parents=True)
        (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(arm, chance)))
    return len(arms)


def log(arm: Arm, chance: random.Random) -> list[dict[str, object]]:
    """The lines of a run that comes down from 3 nats as far as its arm does."""
    from altgrad_cli.config.loading import resolve

    config = resolve(arm.config)
    regime = arm.config.precision.regime
    ends = {"fp32": 1.0, "bf16": 0.99, "frozen": 0.0}.get(regime, _RHO[arm.config.fp8_format])
    ends += chance.gauss(0, 0.02)
    steps: list[dict[str, object]] = [
        {
            "event": "step",
            "step": step,
            "metrics": {"loss": 3 - ends * step / _STEPS},
            "layers": {},
            "committed": True,
            "format": config["fp8_format"],
            "histograms": {},
        }
        for step in range(1, _STEPS + 1)
    ]
    validation = {"validation_loss": 3 - ends, "validation_loss_master": None, "perplexity": None}
    end = {"outcome": "completed", "reason": "", "collapse": None, "formats": [[0, config["fp8_format"]]]}
    return [
        {"event": "run_started", "step": 0, "config": config, "layers": ["a"], "injections": []},
        *steps,
        {"event": "evaluated", "step": _STEPS, **validation},
        {"event": "run_ended", "step": _STEPS, **end},
    ]


def measured_in_child(act: str, sweep: Path, seeds: int) -> Cost:
    """``act`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.many_arms", act, str(sweep), str(seeds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=1500)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def act_here(act: str, sweep: Path, seeds: int) -> Cost:
    """One of ``ACTS`` in this process."""
    from rich.console import Console

    from altgrad_cli.commands.report import report
    from altgrad_cli.commands.views.sweep_view import SweepView
    from altgrad_cli.sweeps.engine import run_sweep
    from altgrad_cli.sweeps.plan import plan_sweep

    begun = time.perf_counter()
    spec = specification(seeds)
    if act == "plan":
        plan_sweep(spec, {})
    elif act == "resume":
        outcome = run_sweep(spec, sweep, Nobody(), SweepView(Console(), quiet=True))  # type: ignore[arg-type]
        assert not outcome.record.unfinished
    else:
        report([sweep], markdown=sweep.with_suffix(".md"), force=True)
    return Cost(time.perf_counter() - begun, high_water())


if __name__ == "__main__":
    name, folder, count = sys.argv[1:]
    print(json.dumps(asdict(act_here(name, Path(folder), int(count)))))
