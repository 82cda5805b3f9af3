"""Update rules by the names of ``optimizer.rule``, with what a comparison has to know of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.config.update_rules import BaseRule
from altgrad_cli.updates.adamw import AdamW
from altgrad_cli.updates.any_torch import TorchOptimizer
from altgrad_cli.updates.compensated import Compensated
from altgrad_cli.updates.eco import ECO
from altgrad_cli.updates.flat import FlatParameters
from altgrad_cli.updates.geometric import CodeStep, Madam
from altgrad_cli.updates.lion import Lion
from altgrad_cli.updates.rule import ElementwiseRule, UpdateRule, Wrapper
from altgrad_cli.updates.sgd import SGD
from altgrad_cli.updates.stiff_gradient import StiffGradient

_BASES: Mapping[BaseRule, type[ElementwiseRule]] = MappingProxyType(
    {"adamw": AdamW, "sgd": SGD, "lion": Lion}
)
_WRAPPERS: Mapping[str, type[Wrapper]] = MappingProxyType(
    {
        "compensated": Compensated,
        "eco": ECO,
        "stiff_gradient": StiffGradient,
        "code_step": CodeStep,
        "madam": Madam,
    }
)


def build_rule(
    optimizer: OptimizerConfig, flat: FlatParameters, *, like: UpdateRule | None = None
) -> UpdateRule:
    """The rule of the configuration, before its first step.

    Args:
        like: a rule whose memory it takes over, as far as both name it alike; torch's own start anew.

    Raises:
        UsageError: torch.optim has no such optimizer, or it cannot step on these parameters.
    """
    rule: UpdateRule
    if optimizer.rule in _WRAPPERS:
        rule = _WRAPPERS[optimizer.rule](_BASES[optimizer.base](optimizer, flat), optimizer, flat)
    elif optimizer.rule in _BASES:
        rule = _BASES[optimizer.rule](optimizer, flat)  # type: ignore[index]
    else:
        rule = TorchOptimizer(optimizer, flat)
    if like is not None and not isinstance(rule, TorchOptimizer):
        rule.load_state_dict({**rule.state_dict(), **like.state_dict()}, like.steps)
    return rule
