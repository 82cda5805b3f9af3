"""What a format's result calls for: post-LayerNorm only, mixed with BF16 where the trouble sits, intervened.

Every choice is made from the measurements of the run that failed, and says so in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from altgrad_cli.config.precision import HEAD, OPERAND_ROLES, LayerRule, Role
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.thresholds import OVERFLOW_FROM, STALL_FROM, UNDERFLOW_FROM
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.roles import Stage
from altgrad_cli.sweeps.arms import Arm, arm_name

if TYPE_CHECKING:
    from altgrad_cli.sweeps.verdicts import JudgedRun

STAGE_OPERANDS: dict[Stage, tuple[Role, ...]] = {
    "forward precision": ("weights", "activations"),
    "gradient fidelity": ("gradients",),
    "optimizer update": (),
}
"""The operands that a stage rounds."""
_RATES = (("overflow_rate", OVERFLOW_FROM), ("underflow_rate", UNDERFLOW_FROM))
_LARGEST_SHARE = 0.5
"""Of the layers that a mixed retry may keep in BF16: with all of them there is no format left to test."""


@dataclass(frozen=True, slots=True)
class LayerTrouble:
    """The worst that was measured in one layer, as a multiple of the rate at which the study warns."""

    layer: str
    metric: str
    rate: float
    severity: float

    @property
    def words(self) -> str:
        """``underflow of gradients``, ``bit stall``."""
        what, _, role = self.metric.partition("/")
        kind = what.removesuffix("_rate").replace("_", " ")
        return f"{kind} of {role}" if role else kind


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
    if HEAD not in {trouble.layer for trouble in chosen}:
        reason += f", the head is {precision.head_format}"
    config = replace(arm.config, precision=replace(precision, rules=(*rules, *precision.rules)))
    return _retry(arm, "mixed", config, reason)


def rank_layers(record: RunRecord, cause: str | None) -> list[LayerTrouble]:
    """The layers with trouble, the worst first; what the verdict names as the cause is looked at first."""
    stall = [("bit_stall_rate", STALL_FROM)]
    overflow = [(f"overflow_rate/{role}", OVERFLOW_FROM) for role in OPERAND_ROLES]
    underflow = [(f"underflow_rate/{role}", UNDERFLOW_FROM) for role in OPERAND_ROLES]
    by_cause = {"saturated": overflow, "underflowed": underflow, "stalled": stall, "slowed": stall}
    for measures in (by_cause.get(cause or "", []), stall + overflow + underflow):
        found = (_worst(record, layer, measures) for layer in range(len(record.layers)))
        troubles = [trouble for trouble in found if trouble is not None]
        if troubles:
            return sorted(troubles, key=lambda trouble: -trouble.severity)
    return []


def layers_at_fault(record: RunRecord, stage: Stage) -> list[LayerTrouble]:
    """The layers in which the trouble of a failing ``stage`` was measured, the worst first.

    Those within half of the worst count; where every layer has it, every layer is named.
    """
    measures = [(f"{rate}/{role}", limit) for role in STAGE_OPERANDS[stage] for rate, limit in _RATES]
    if stage == "optimizer update":
        measures = [("bit_stall_rate", STALL_FROM)]
    found = (_worst(record, layer, measures) for layer in range(len(record.layers)))
    troubles = sorted((t for t in found if t is not None), key=lambda trouble: -trouble.severity)
    return [trouble for trouble in troubles if trouble.severity >= troubles[0].severity / 2]


def _worst(record: RunRecord, layer: int, measures: list[tuple[str, float]]) -> LayerTrouble | None:
    worst = None
    for metric, threshold in measures:
        rate = record.layer_means(metric)[layer]
        if rate is not None and rate > threshold and (worst is None or rate / threshold > worst.severity):
            worst = LayerTrouble(record.layers[layer], metric, rate, rate / threshold)
    return worst


def intervened_arm(arm: Arm) -> Arm:
    """``arm`` with the emergency shift armed, and the range clipping where the scaling leaves it a use."""
    config = replace(arm.config, enable_emergency_shift=True, nan_policy="auto")
    reason = "the same with the emergency shift"
    try:
        config, reason = replace(config, enable_partition_clipping=True), f"{reason} and the range clipping"
    except ConfigError:
        reason += "; range clipping is left out: it cannot act under amax scaling"
    return replace(_retry(arm, "intervened", config, reason), kind="intervened")


def _retry(arm: Arm, suffix: str, config: object, reason: str) -> Arm:
    regime = arm.config.precision.regime
    stem, _, rest = arm.name.partition(f"-{regime}")
    name = f"{stem}-{suffix}{rest}" if regime in arm.name else arm_name(arm.name, suffix)
    return replace(arm, name=name, kind="retry", config=config, retry_of=arm.name, reason=reason)  # type: ignore[arg-type]
