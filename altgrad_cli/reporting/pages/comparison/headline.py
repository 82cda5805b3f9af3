"""What a comparison found, one sentence a run, before any table."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from altgrad_cli.reporting.blocks.document import Text, listed
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.run.failure_sections import CAUSES, collapse_sentence
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict
from altgrad_cli.sweeps.verdicts import arms_without_verdict


def headline(scope: Scope) -> Text | None:
    """One sentence a format over its seeds and texts, then one a main run, the findings first."""
    lines = [_format(scope, found) for found in scope.evidence.formats]
    for log in scope.main_runs:
        n, judged_run = scope.evidence.of(log), scope.evidence.judged(log)
        verdict, step = judged_run.verdict, judged_run.step
        grade = f"**{n('verdict')}**" if verdict.grade else f"{n('outcome')}; {n('grade')}"
        line = f"`{log.name}`: {grade}"
        if step is not None:
            line += f", rho {n(f'recovered_fraction@{step}')} at step {n(f'step@{step}')}"
        if verdict.cause:
            suspected = "suspected cause: " if verdict.suspected else ""
            line += f"; {suspected}{n('cause')}: {CAUSES[verdict.cause]}"
        if judged_run.collapse:
            line += f"; {collapse_sentence(scope, log)}"
        elif judged_run.warning:
            line += f"; warning: {n('warning')}"
        if verdict.borderline:
            line += "; borderline"
        if log.injections:
            line += f"; faults were planted: {n('injections')}"
        lines.append(f"{line}.")
    if not scope.main_runs:
        lines.append("No format was under study: these are controls.")
    for names in arms_without_verdict(scope.evidence.findings).values():
        reason = scope.evidence.cite(f"{names[0]}: no_verdict_because")
        lines.append(f"No verdict ({', '.join(f'`{name}`' for name in names)}): {reason}.")
    lines += _twins(scope)
    control = next((log for log in scope.failed_runs if _is_control_format(scope, log)), None)
    if control is not None:
        lines.append(
            f"**The control format itself fails here**: `{control.name}`, verdict "
            f"{scope.evidence.of(control)('verdict')}. What fails beside it fails by the regime as well as "
            "by its grid."
        )
    return listed(lines)


def _format(scope: Scope, found: FormatVerdict) -> str:
    """What a format comes to, and text by text the loss gap and the step ratio behind it."""
    cite = scope.evidence.cite
    first = next(name for each in found.texts for name in each.runs)
    line = f"**`{found.arm}` {cite(f'{first}: format_word')}** ({cite(f'{first}: format_evidence')})"
    for each in found.texts:
        if each.gap.difference is None:
            continue
        line += f"; on {each.text} {scope.evidence.cite_difference(each.gap)}"
        line += f" nats to fp32 at step {cite(f'{first}: step@{each.gap.step}')}"
        if each.step_ratio is not None:
            runs = ",".join(each.runs)
            line += f", where fp32 was after {cite(f'{runs}: average step_ratio')} of the steps"
    return f"{line}."


def _twins(scope: Scope) -> list[str]:
    """Main runs of two formats whose losses are the same at every step."""
    alike: dict[bytes, list[tuple[int, RunRecord]]] = {}
    for number, log in enumerate(scope.main_runs):
        losses = log.series("loss").values
        whole = np.where(np.isnan(losses), np.nan, losses) + 0.0  # one NaN, one zero
        alike.setdefault(whole.tobytes(), []).append((number, log))
    pairs = sorted(
        (i, j, first, second)
        for group in alike.values()
        for (i, first), (j, second) in combinations(group, 2)
        if first.format != second.format
    )
    return [
        f"`{first.name}` and `{second.name}` have the same loss at every step: under these "
        "scales the two formats are one grid."
        for _, _, first, second in pairs
    ]


def _is_control_format(scope: Scope, log: RunRecord) -> bool:
    """Whether ``log`` is E5M2 under the same settings as another format of this report."""

    def settings(run: RunRecord) -> dict[str, object]:
        return {key: value for key, value in run.config.items() if key != "fp8_format"}

    return log.format == "E5M2" and any(
        settings(other) == settings(log) and other is not log for other in scope.main_runs
    )
