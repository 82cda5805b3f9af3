"""What ``--dry-run`` prints: the plan, the resolved configs, the predicted stall and the time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from altgrad_cli.commands.console import data_console, print_json, say

if TYPE_CHECKING:
    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.subjects.subject import Subject
    from altgrad_cli.sweeps.arms import Arm
    from altgrad_cli.sweeps.specification import SweepSpec

TRAIN_SCHEMA = "altgrad.train-plan/1"
SWEEP_SCHEMA = "altgrad.sweep-plan/1"


def show_train_plan(
    config: TrainConfig, folder: Path, *, as_json: bool, subject: Subject | None = None
) -> None:
    """The plan of one run with ``config``."""
    from altgrad_cli.config.loading import resolve, to_yaml
    from altgrad_cli.sweeps.estimate import predict_stalls, time_a_step

    step = time_a_step(config, subject)
    prediction = predict_stalls(config, [config.fp8_format])[config.fp8_format]
    if as_json:
        print_json(
            TRAIN_SCHEMA,
            {
                "folder": str(folder),
                "config": resolve(config),
                "predicted_stall": {"long_run": prediction.long_run, "first_step": prediction.first_step},
                "seconds_per_step": step.seconds,
                "measured": step.measured,
                "estimated_seconds": step.seconds * config.max_steps,
            },
        )
        return
    typer.echo(to_yaml(config), nl=False)  # a file that train takes: all else goes to stderr
    say(f"folder: {folder}")
    say(
        f"predicted stall of stored weights on {config.fp8_format}, first step / long run: "
        f"{prediction.first_step:.3f} / {prediction.long_run:.3f}"
    )
    seconds = step.seconds * config.max_steps
    say(f"time: about {seconds:.0f} s ({step.seconds:.3f} s a step; measured: {step.measured})")


def show_sweep_plan(
    spec: SweepSpec, folder: Path, jobs: int, *, as_json: bool, subject: Subject | None = None
) -> None:
    """The plan of a sweep, as far as it is known before any result."""
    from altgrad_cli.commands.views.sweep_view import duration
    from altgrad_cli.config.loading import resolve
    from altgrad_cli.sweeps.estimate import estimate_seconds, predict_stalls, time_a_step
    from altgrad_cli.sweeps.plan import arms_to_come, equivalences, plan_sweep
    from altgrad_cli.sweeps.tuning import rates_tried

    arms = plan_sweep(spec, {})
    stalls = predict_stalls(spec.base, spec.order)
    at_best, more = arms_to_come(spec)
    studied = next(arm for arm in (*at_best, *arms) if arm.kind == "format")
    step = time_a_step(studied.config, subject)
    seconds = estimate_seconds([*arms, *at_best], step.seconds, jobs)
    most_seconds = estimate_seconds([*arms, *at_best, *more], step.seconds, jobs)
    least, most = len(arms) + len(at_best), len(arms) + len(at_best) + len(more)
    if as_json:
        print_json(
            SWEEP_SCHEMA,
            {
                "folder": str(folder),
                "arms": [{**arm.to_json(), "config": resolve(arm.config)} for arm in arms],
                "predicted_stall": {
                    name: {"long_run": p.long_run, "first_step": p.first_step} for name, p in stalls.items()
                },
                "equivalent": [str(equal) for equal in equivalences(spec)],
                "seconds_per_step": step.seconds,
                "measured": step.measured,
                "estimated_seconds": seconds,
                "estimated_seconds_at_most": most_seconds,
                "runs": least,
                "runs_at_most": most,
                "jobs": jobs,
            },
        )
        return
    console = data_console()
    table = Table(
        title=f"plan for {folder}", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    for heading in ("arm", "kind", "format", "regime", "seed", "steps", "why"):
        table.add_column(heading, no_wrap=heading != "why")
    tuned = rates_tried(arms, {})  # then a line an arm, not one a rate
    rows = [(arm.name, arm, arm.reason) for arm in arms]
    if tuned:
        rows = [(each.arm, each.first, f"tried at {each.rates}, then run at the best") for each in tuned]
    for name, arm, why in rows:
        config = arm.config
        numbers = (str(config.seed), str(config.max_steps))
        table.add_row(name, arm.kind, arm.format, config.precision.regime, *numbers, why)
    console.print(table)
    if spec.retries or spec.attribute or spec.with_interventions:
        console.print("Further arms follow from the results.")
    console.print("\nPredicted stall of the stored weights (first step / long run), nearest rounding:")
    for name, prediction in stalls.items():
        console.print(f"  {name:<6} {prediction.first_step:.3f} / {prediction.long_run:.3f}")
    for equal in equivalences(spec):
        console.print(f"{equal}: one experiment under power-of-two scales")
    pace = f"{step.seconds:.3f} s a step, {jobs} at a time; measured: {step.measured}"
    console.print(f"\nTime: about {duration(seconds)} ({pace})")
    if tuned:
        console.print(f"Runs: {len(arms)} to choose rates, {len(at_best)} at the best ones")
        widened = f"{most} runs at most, about {duration(most_seconds)}"
        console.print(f"Where the best rate is at an edge of those tried, more are: {widened}")
    for line in config_listing([arm for _, arm, _ in rows]):
        console.print(Text(line), soft_wrap=True)


def config_listing(arms: Sequence[Arm]) -> list[str]:
    """The resolved config of the first arm in full, and what is different in each other one."""
    from altgrad_cli.config.loading import changes, resolve, to_yaml

    first, *others = arms
    lines = ["", f"config of {first.name}:", *(f"  {line}" for line in to_yaml(first.config).splitlines())]
    for arm in others:
        different = changes(resolve(first.config), resolve(arm.config)).items()
        words = " ".join(f"{key}={word}" for key, word in different)
        lines.append(f"config of {arm.name}: the same with {words}")
    return lines
