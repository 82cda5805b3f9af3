"""Arms that were run with several seeds: their spread, and what of a difference lies inside it."""

from __future__ import annotations

from collections.abc import Sequence

from altgrad_cli.reporting.blocks.document import (
    Block,
    Picture,
    Section,
    TableColumn,
    Text,
    listed,
    picture,
    section,
)
from altgrad_cli.reporting.evidence.labels import run_labels
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.comparison import compare_seeds, last_common_step, seed_groups


def runs_by_arm(scope: Scope, runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that differ in nothing but their seed; one whose configuration cannot be read stands alone."""
    arms = [arm for log in runs if (arm := scope.arm(log)) is not None]
    alone = [[log] for log in runs if scope.arm(log) is None]
    return [[scope.evidence.run(arm.name) for arm in group] for group in seed_groups(arms)] + alone


def _groups(scope: Scope) -> list[tuple[str, list[RunRecord], int]]:
    """(label, runs, last step at which all were evaluated) of every arm that has a recovered fraction."""
    candidates = [
        log for log in scope.runs if log.control not in ("fp32", "frozen") and scope.evidence.judged(log).step
    ]
    labels = run_labels(scope.evidence.arms.values())
    return [
        (
            labels.get(members[0].name) or scope.evidence.group_name([log.name for log in members]),
            members,
            step,
        )
        for members in runs_by_arm(scope, candidates)
        if (step := last_common_step([log.validation for log in members])) is not None
    ]


def recovery_picture(scope: Scope) -> Picture | None:
    """The recovered fraction of every arm, seed by seed."""
    caption = "A dot is a run at its last evaluation; the bar spans the seeds, the tick is their mean."
    return picture(plots.recovery_figure(scope.evidence, _groups(scope)), caption)


def spread_section(scope: Scope) -> Section | None:
    """Every arm that was run with several seeds: its spread, and what of a difference lies inside it."""
    several = [(members, step) for _, members, step in _groups(scope) if len(members) > 1]
    blocks: list[Block | None] = []
    for step in sorted({step for _, step in several}, reverse=True):
        blocks += _seed_table(scope, [members for members, at in several if at == step], step)
    return section("Seeds", *blocks, _differences(scope))


def _seed_table(scope: Scope, groups: Sequence[Sequence[RunRecord]], step: int) -> list[Block | None]:
    loss, rho = f"at(validation_loss)@{step}", f"recovered_fraction@{step}"
    table = scope.evidence.table(
        "arm",
        [scope.evidence.group_name([log.name for log in members]) for members in groups],
        [
            "number",
            TableColumn("mean validation loss", f"{{}}: average {loss}"),
            TableColumn("its deviation", f"{{}}: deviation {loss}"),
            TableColumn("mean rho", f"{{}}: average {rho}"),
            TableColumn("its deviation", f"{{}}: deviation {rho}"),
            TableColumn("lowest rho", f"{{}}: lowest {rho}"),
            TableColumn("highest rho", f"{{}}: highest {rho}"),
        ],
    )
    at = scope.evidence.of(groups[0][0])(f"step@{step}")
    return [Text(f"At step {at}; the deviation is the sample standard deviation over the seeds."), table]


def _differences(scope: Scope) -> Text | None:
    """Format against format, seed by seed: is the difference outside the noise?"""
    evidence, cite = scope.evidence, scope.evidence.cite
    lines = []
    for found in compare_seeds(evidence.arms.values(), evidence.findings):
        if found.difference is None or found.difference.half_width is None or found.arm == found.against:
            continue
        loss = f"at(validation_loss)@{found.step}"
        names = ",".join([arm for arm, _ in found.pairs] + [other for _, other in found.pairs])
        numbers = ", ".join(cite(f"{arm},{other}: difference {loss}") for arm, other in found.pairs)
        lines.append(
            f"`{found.pairs[0][0]}` minus `{found.pairs[0][1]}`, validation loss seed by seed: {numbers}; "
            f"mean {cite(f'{names}: paired {loss}')}, half of its Student-t interval "
            f"{cite(f'{names}: halfwidth {loss}')}: {found.difference.words}."
        )
    return listed(lines)
