"""Everything that a source can name of one run: reductions of its metrics, facts, keys of its mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.blocks.sources import Source
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.facts import FACTS, MAPPINGS
from altgrad_cli.reporting.evidence.reductions import LAYER_REDUCTIONS, REDUCTIONS, reduce


def look_up(log: RunLog, dotted: str) -> Any:
    """The value of ``root.key.key``, None where there is none; UsageError where nothing is called so."""
    root, _, rest = dotted.partition(".")
    if root not in MAPPINGS:
        raise UsageError(f"no quantity is called {dotted!r}", allowed=", ".join(sorted(known_quantities())))
    value: Any = MAPPINGS[root](log)
    for key in rest.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def known_quantities() -> list[str]:
    """Every name that a source of a run may begin with."""
    return [*REDUCTIONS, *LAYER_REDUCTIONS, *FACTS, *(f"{root}.<key>" for root in MAPPINGS)]


def evaluate(log: RunLog, source: Source) -> Any:
    """The value of ``source`` in the run ``log``; quantities that need other runs are the evidence's."""
    if source.quantity in REDUCTIONS:
        return reduce(log, source)
    if source.quantity in LAYER_REDUCTIONS:
        return LAYER_REDUCTIONS[source.quantity](log, source)
    if source.quantity in FACTS:
        return FACTS[source.quantity](log, source)
    return look_up(log, source.quantity)
