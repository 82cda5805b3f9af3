"""Update rules by the names of ``optimizer.rule``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from altgrad_cli.config.run import OptimizerConfig, RuleName
from altgrad_cli.updates.adamw import AdamW
from altgrad_cli.updates.flat import FlatParameters
from altgrad_cli.updates.rule import UpdateRule

MakeRule = Callable[[OptimizerConfig, FlatParameters], UpdateRule]

RULES: Mapping[RuleName, MakeRule] = {"adamw": AdamW}


def build_rule(optimizer: OptimizerConfig, flat: FlatParameters) -> UpdateRule:
    """The rule of the configuration, before its first step."""
    return RULES[optimizer.rule](optimizer, flat)
