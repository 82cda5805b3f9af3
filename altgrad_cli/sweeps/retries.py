"""What a format's result calls for: post-LayerNorm only, mixed with BF16 where the trouble sits, intervened.

Every choice is made from the measurements of the run that failed, and says so in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from altgrad_cli.config.precision import LayerRule
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.sweeps.ablation.troubles import rank_layers
from altgrad_cli.sweeps.arms import Arm, arm_name

if TYPE_CHECKING:
    from altgrad_cli.sweeps.verdicts import JudgedRun

_LARGEST_SHARE = 0.5
"""Of the layers that a mixed retry may keep in BF16: with all of them there is no format left to test."""


def retry_arms(arm: Arm, finding: JudgedRun | None, *, with_interventions: bool) -> Iterator[Arm]:
    """The arms that follow from ``finding``, the result of the format arm ``arm`` (None: not known yet)."""
    failed = finding is not None and finding.failed
    width = parse_format(arm.config.fp8_format)
    always = (width.exponent_bits, width.mantissa_bits) == (1, 6)
    if always or (failed and width.is_fixed_point):
        why = "E1M6 gets it in any case" if always else f"{arm.name} failed"
        yield _retry(
            arm,
            "postln",
            replace(arm.config, precision=replace(arm.config.precision, regime="postln", roles=None)),
            f"inputs of the LayerNorm-fed layers only ({why})",
        )
    if not failed or finding is None:
        return
    mixed = mixed_arm(arm, finding)
    if mixed is not None:
        yield mixed
    if with_interventions:
        yield intervened_arm(arm)


def mixed_arm(arm: Arm, finding: JudgedRun) -> Arm | None:
    """``arm`` with BF16 in the layers where the measured trouble sits; None where no layer shows any."""
    troubles = rank_layers(finding.record, finding.verdict.cause)
    if not troubles:
        return None
    allowed = max(1, int(len(finding.record.layers) * _LARGEST_SHARE))
    chosen, left = troubles[:allowed], troubles[allowed:]
    rules = tuple(LayerRule(pattern=trouble.layer, format="BF16") for trouble in chosen)
    precision = arm.config.precision
    reason = "BF16 in " + ", ".join(f"{t.layer} ({t.metric} {t.rate:.3g})" for t in chosen)
    if left:
        reason += f"; {len(left)} more layers show the same, at most half are taken out, the worst first"
    reason += "; embeddings are float32 in every arm"
    if not any(finding.record.kinds[trouble.layer] == "head" for trouble in chosen):
        reason += f", the head is {precision.head_format}"
    config = replace(arm.config, precision=replace(precision, rules=(*rules, *precision.rules)))
    return _retry(arm, "mixed", config, reason)


def intervened_arm(arm: Arm) -> Arm:
    """``arm`` with the emergency shift armed, and the range clipping where the scaling leaves it a use."""
    config = replace(arm.config, enable_emergency_shift=True, nan_policy="auto")
    reason = "the same with the emergency shift"
    try:
        config, reason = replace(config, enable_partition_clipping=True), f"{reason} and the range clipping"
    except ConfigError:
        reason += "; range clipping is left out: it cannot act under amax scaling"
    return replace(_retry(arm, "intervened", config, reason), kind="intervened")


def _retry(arm: Arm, suffix: str, config: TrainConfig, reason: str) -> Arm:
    regime = arm.config.precision.regime
    stem, _, rest = arm.name.partition(f"-{regime}")
    name = f"{stem}-{suffix}{rest}" if regime in arm.name else arm_name(arm.name, suffix)
    return replace(arm, name=name, kind="retry", config=config, retry_of=arm.name, reason=reason)
