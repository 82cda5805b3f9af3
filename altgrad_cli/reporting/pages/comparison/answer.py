"""How a comparison opens: its answer in a few sentences, one picture, one table. The rest is folded away."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from altgrad_cli.reporting.blocks.document import (
    SHOWN_ROWS,
    Block,
    Picture,
    Table,
    TableColumn,
    Text,
    picture,
)
from altgrad_cli.reporting.evidence.labels import run_labels
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison import plots
from altgrad_cli.reporting.pages.comparison.rules_section import best_rules
from altgrad_cli.reporting.pages.comparison.seeds import recovery_picture
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict

NAMED = 5
"""Arms that a sentence names; of more it names the first, and their number."""
CAUSES_NAMED = 2


def opening(scope: Scope) -> tuple[Block, ...]:
    """The answer, the picture and the table of ``scope``."""
    rules = best_rules(scope)
    if rules is not None:
        return rules
    found = by_gap(scope)
    sentences = [*_words(scope, found), *_ends(scope, found), *_causes(scope)]
    blocks: tuple[Block | None, ...] = (
        Text(" ".join(sentences)) if sentences else None,
        _picture(scope),
        _table(scope, found),
    )
    return tuple(block for block in blocks if block is not None)


def by_gap(scope: Scope) -> list[FormatVerdict]:
    """Every format over its seeds and texts, the lowest loss gap to fp32 first, the unknown last."""

    def gap(found: FormatVerdict) -> float:
        lost = any(each.lost for each in found.texts)
        mean = math.nan if found.gap is None or lost else found.gap.mean
        return math.inf if math.isnan(mean) else mean

    return sorted(scope.evidence.formats, key=gap)


def runs_of(found: FormatVerdict) -> tuple[str, ...]:
    """The runs of a format, text by text."""
    return tuple(name for each in found.texts for name in each.runs)


def display_names(scope: Scope, verdicts: Sequence[FormatVerdict]) -> dict[str, str]:
    """What each is called: its format and what tells it from the others, or its arm."""
    labels = run_labels(scope.evidence.arms.values(), texts=False)
    said = {found.arm: labels.get(runs_of(found)[0], found.arm) for found in verdicts}
    taken = Counter(said.values())
    return {arm: label if taken[label] == 1 else f"`{arm}`" for arm, label in said.items()}


def _words(scope: Scope, verdicts: Sequence[FormatVerdict]) -> list[str]:
    """Which formats come to which word, and what that rests on."""
    if not verdicts:
        return ["No format was under study: these are controls."] if not scope.main_runs else []
    names, cite = display_names(scope, verdicts), scope.evidence.cite
    by_word: dict[str | None, list[FormatVerdict]] = {}
    for found in verdicts:
        by_word.setdefault(found.word, []).append(found)
    parts = []
    for word, members in by_word.items():
        if word is None:
            continue
        runs = [scope.evidence.group_name(runs_of(found)) for found in members]
        said = cite(f"{','.join(runs)}: common format_word")
        shown = ", ".join(names[found.arm] for found in members[:NAMED])
        if len(members) > NAMED:
            firsts = ",".join(runs_of(found)[0] for found in members)
            shown = f"{cite(f'{firsts}: number')} arms, {shown} among them"
        parts.append(f"**{said}**: {shown}")
    if not parts:
        source = f"{runs_of(verdicts[0])[0]}: no_verdict_because"
        return [f"No verdict: {cite(source)}."] if scope.evidence.value(source) else []
    return [f"{'; '.join(parts)} ({_what_it_rests_on(scope, verdicts)})."]


def _what_it_rests_on(scope: Scope, verdicts: Sequence[FormatVerdict]) -> str:
    """Seeds, texts and rates; said apart of the arms that have fewer."""
    by_evidence: dict[str, list[FormatVerdict]] = {}
    for found in verdicts:
        by_evidence.setdefault(found.evidence, []).append(found)
    names, said = display_names(scope, verdicts), []
    for members in by_evidence.values():
        runs = ",".join(scope.evidence.group_name(runs_of(found)) for found in members)
        words = scope.evidence.cite(f"{runs}: common format_evidence")
        whose = ", ".join(names[found.arm] for found in members[:NAMED])
        said.append(f"{whose}: {words}" if len(by_evidence) > 1 else words)
    return "; ".join(said)


def _ends(scope: Scope, verdicts: Sequence[FormatVerdict]) -> list[str]:
    """How far the nearest format and the farthest one are from fp32."""
    known = [found for found in verdicts if _gap(scope, found)]
    if not known:
        return []
    names = display_names(scope, verdicts)
    first, last = known[0], known[-1]
    said = f"Loss above that of fp32: {names[first.arm]} {_gap(scope, first)}"
    if last is not first:
        said += f", {names[last.arm]} {_gap(scope, last)}"
    return [f"{said}."]


def _gap(scope: Scope, found: FormatVerdict) -> str:
    """``0.024 ± 0.033 nats``, over texts the mean of their means; nothing where it is not known."""
    if found.gap is None or not math.isfinite(found.gap.mean) or any(each.lost for each in found.texts):
        return ""
    group, cite = scope.evidence.group_name(runs_of(found)), scope.evidence.cite
    said = cite(f"{group}: average loss_gap")
    if len(found.texts) > 1 or found.gap.half_width is None:
        return f"{said} nats"
    inside = " (inside the noise)" if found.gap.within_noise else ""
    return f"{said} ± {cite(f'{group}: interval loss_gap')} nats{inside}"


def _causes(scope: Scope) -> list[str]:
    """Which stage fails, for the first runs of which that is known."""
    said = []
    for log in scope.failed_runs:
        found = scope.evidence.attribution(log)
        if found is not None and found.stage is not None:
            rescue = scope.evidence.parts(log)[found.confirmed_by or ""]
            said.append(
                f"In `{log.name}` the **{found.stage}** fails: undone, rho goes from "
                f"{scope.evidence.cite(f'{log.name}: recovered_fraction')} to "
                f"{scope.evidence.cite(f'{rescue.name}: recovered_fraction')}."
            )
    for log in scope.main_runs:
        for each in scope.evidence.layer_attributions(log) if log.has_rules else ():
            if each.confirmed:
                n = scope.evidence.of(log)
                said.append(f"In `{log.name}` the **{n(f'attributed_stage({each.role})')}** fails.")
    return said[:CAUSES_NAMED]


def _picture(scope: Scope) -> Picture | None:
    """What each format is worth or, without controls, the losses."""
    return recovery_picture(scope) or picture(plots.validation_figure(scope.runs))


def _table(scope: Scope, verdicts: Sequence[FormatVerdict]) -> Table | None:
    """One row a format; of many, one row a format and one column a setting."""
    if len(verdicts) > SHOWN_ROWS:
        return _settings_table(scope, verdicts)
    texts = list(dict.fromkeys(each.text for found in verdicts for each in found.texts))
    columns = [TableColumn("verdict", "{}: common format_word")]
    for text in texts:
        place, on = (f"/{text}", f" on {text}") if len(texts) > 1 else ("", "")
        columns += [
            TableColumn(f"nats above fp32{on}", f"{{}}{place}: average loss_gap"),
            TableColumn("±", f"{{}}{place}: interval loss_gap"),
            TableColumn(f"rho{on}", f"{{}}{place}: average recovered_fraction"),
        ]
    columns.append(TableColumn("step ratio", "{}: average step_ratio"))
    columns.append(TableColumn("other way round", "{}: common other_way_round"))
    labels = [scope.evidence.group_name(runs_of(found)) for found in verdicts]
    places = [f"{label}/{text}" for label in labels for text in texts] if len(texts) > 1 else []
    if any(place not in scope.evidence.groups for place in places):
        return None
    return scope.evidence.table("arm", labels, columns)


def _settings_table(scope: Scope, verdicts: Sequence[FormatVerdict]) -> Table | None:
    """Loss gaps, a row a format, a column a regime; with more settings a row a format and regime.

    None where names do not come apart so.
    """
    evidence = scope.evidence
    regimes = {found.arm: evidence.arms[runs_of(found)[0]].config.precision.regime for found in verdicts}
    stems = {arm: arm.partition(f"-{regime}")[0] for arm, regime in regimes.items()}
    if any(arm != f"{stems[arm]}-{regime}" for arm, regime in regimes.items()):
        stems = {arm: f"{stems[arm]}-{regime}" for arm, regime in regimes.items()}
    alone = all(len(found.texts) == 1 for found in verdicts)
    if not alone or any(not arm.startswith(f"{stem}-") for arm, stem in stems.items()):
        return None
    rows = dict.fromkeys(stems.values())
    settings = dict.fromkeys(arm.removeprefix(f"{stem}-") for arm, stem in stems.items())
    known = {*evidence.groups, *evidence.runs}
    if len(settings) > SHOWN_ROWS or any(f"{row}-{each}" not in known for row in rows for each in settings):
        return None
    columns = [TableColumn(each, f"{{}}-{each}: average loss_gap") for each in settings]
    return evidence.table("nats above fp32", rows, columns)
