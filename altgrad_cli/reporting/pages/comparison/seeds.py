"""Arms that were run with several seeds: their spread, and what of a difference lies inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from altgrad_cli.metrics.noise import paired_interval
from altgrad_cli.reporting.blocks.document import Block, Picture, Section, TableColumn, Text, make_table
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.runs import pairing_key
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison import loss_plots

_NOT_PART_OF_AN_ARM = ("seed", "wandb")


def seed_groups(runs: Sequence[RunLog]) -> list[tuple[str, list[RunLog]]]:
    """Runs that differ in nothing but their seed, under the name of the first."""
    groups: dict[str, list[RunLog]] = {}
    for log in runs:
        config = {key: value for key, value in log.record.config.items() if key not in _NOT_PART_OF_AN_ARM}
        groups.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(log)
    return [(members[0].name, members) for members in groups.values()]


def _common_step(scope: Scope, runs: Sequence[RunLog]) -> int | None:
    """The latest step at which every run has a recovered fraction."""
    steps = [scope.evidence.judgement(log).step for log in runs]
    return None if not steps or None in steps else min(step for step in steps if step is not None)


def spread_section(scope: Scope) -> Section | None:
    """Recovered fraction of every arm, with its spread where it was run with several seeds."""
    candidates = [
        log
        for log in scope.runs
        if log.control not in ("fp32", "frozen") and scope.evidence.judgement(log).step
    ]
    groups = [
        (name, members, step)
        for name, members in seed_groups(candidates)
        if (step := _common_step(scope, members)) is not None
    ]
    figure = loss_plots.recovery_figure(scope.evidence, groups)
    if figure is None:
        return None
    caption = (
        "A dot is a run at its last evaluation; the bar spans the seeds of one arm, the tick is their "
        "mean. A run that ended early stands at its own last step, which its row names."
    )
    blocks: list[Block] = [Picture(figure, caption)]
    several = [(members, step) for _, members, step in groups if len(members) > 1]
    for step in sorted({step for _, step in several}, reverse=True):
        blocks += _seed_table(scope, [members for members, at in several if at == step], step)
    return Section("Recovered fraction", tuple(blocks))


def _seed_table(scope: Scope, groups: Sequence[Sequence[RunLog]], step: int) -> list[Block]:
    labels = [",".join(log.name for log in members) for members in groups]
    table = make_table(
        scope.evidence,
        "runs",
        labels,
        [
            TableColumn("seeds", "{}: number"),
            TableColumn("mean validation loss", f"{{}}: average at(validation_loss)@{step}"),
            TableColumn("its deviation", f"{{}}: deviation at(validation_loss)@{step}"),
            TableColumn("mean rho", f"{{}}: average recovered_fraction@{step}"),
            TableColumn("its deviation", f"{{}}: deviation recovered_fraction@{step}"),
            TableColumn("lowest rho", f"{{}}: lowest recovered_fraction@{step}"),
            TableColumn("highest rho", f"{{}}: highest recovered_fraction@{step}"),
        ],
    )
    n = scope.evidence.of(groups[0][0])
    text = f"At step {n(f'step@{step}')}; the deviation is the sample standard deviation over the seeds."
    return [Text(text), table, *_pairs(scope, groups, step)]


def _pairs(scope: Scope, groups: Sequence[Sequence[RunLog]], step: int) -> list[Block]:
    """Arm against arm, seed by seed: is the difference outside the noise?"""
    lines = []
    for first, second in pairwise(groups):
        by_seed = {log.record.seed: log for log in second}
        pairs = [(log, by_seed[log.record.seed]) for log in first if log.record.seed in by_seed]
        pairs = [(log, other) for log, other in pairs if pairing_key(log) == pairing_key(other)]
        if len(pairs) < 2:
            continue
        names = ",".join([log.name for log, _ in pairs] + [other.name for _, other in pairs])
        loss = f"at(validation_loss)@{step}"
        sources = [f"{a.name},{b.name}: difference {loss}" for a, b in pairs]
        differences = [scope.evidence.value(source) for source in sources]
        interval = paired_interval(differences) if None not in differences else None
        if interval is None:
            continue
        cite = scope.evidence.cite
        numbers = ", ".join(map(cite, sources))
        lines.append(
            f"- `{first[0].name}` minus `{second[0].name}`, validation loss seed by seed: {numbers}; mean "
            f"{cite(f'{names}: paired {loss}')}, half of its Student-t interval "
            f"{cite(f'{names}: halfwidth {loss}')}: {interval.words}."
        )
    return [Text("\n".join(lines))] if lines else []
