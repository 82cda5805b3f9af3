"""Which format serves which kind of layer best, as far as the runs measured it."""

from __future__ import annotations

from altgrad_cli.notation import layer_type
from altgrad_cli.reporting.blocks.document import Block, Section, TableColumn, Text, section
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.pages.comparison.seeds import runs_by_arm

_MEASURES = {
    "update_transfer": (
        "Update transfer tau: how much of the optimizer's step reaches the stored weights (one is all of it)."
    ),
    "gradient_sqnr": "SQNR of the weight gradient against its float32 shadow, in dB.",
}


def sweet_spot(scope: Scope) -> Section | None:
    """For each kind of layer, the measures of every format side by side and the format that leads."""
    runs = [members[0] for members in runs_by_arm(scope, scope.main_runs)]
    if len(runs) < 2:
        return None
    types = dict.fromkeys(layer_type(name) for name in runs[0].layers)
    names = ",".join(log.name for log in runs)
    blocks: list[Block | None] = []
    for metric, words in _MEASURES.items():
        mean = f"type_mean({metric})"
        kinds = [
            kind
            for kind in types
            if any(scope.evidence.value(f"{log.name}: {mean}[{kind}]") is not None for log in runs)
        ]
        columns = [TableColumn(log.name, f"{log.name}: {mean}[{{}}]") for log in runs]
        columns.append(TableColumn("leads", f"{names}: leader {mean}[{{}}]"))
        if kinds:
            blocks += [Text(words), scope.evidence.table("layer type", kinds, columns)]
    note = (
        "Means over the whole run and all blocks. A leader by one measure is not a verdict: what "
        "counts is the loss, and that was measured for uniform formats and for the mixtures listed "
        "under the retries only."
    )
    return section("Sweet spot by kind of layer", *blocks, Text(note)) if blocks else None
