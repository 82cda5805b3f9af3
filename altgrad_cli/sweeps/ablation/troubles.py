"""Where in the network rounding does damage: the layers whose measures cross a limit, and what they lose.

Everything is read from one run, as means over its steps. A run's cause is found by the limits of a role's
whole tensor, taken here layer by layer; a stage at fault and a retry look from the rates on that warn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from altgrad_cli.config.precision import OPERAND_ROLES, REGIME_ROLES, Role
from altgrad_cli.metrics.thresholds import (
    OVERFLOW_FROM,
    SATURATED_FROM,
    STALL_FROM,
    STALLED_UP_TO,
    UNDERFLOW_FROM,
    UNDERFLOWED_FROM,
)
from altgrad_cli.runs.record import RunRecord

Stage = Literal["forward precision", "gradient fidelity", "optimizer update"]
Trouble = Literal["underflow", "overflow", "stall"]

STAGE_OF: dict[Role, Stage] = {
    "weights": "forward precision",
    "activations": "forward precision",
    "gradients": "gradient fidelity",
    "stored_weights": "optimizer update",
}
STUDIED_ROLES: tuple[Role, ...] = REGIME_ROLES["uniform"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A measure of a layer, and the rate from which on it is trouble (of a transfer: down to which)."""

    role: Role
    trouble: Trouble
    metric: str
    rate: float

    def is_crossed(self, rate: float) -> bool:
        """Whether ``rate`` is trouble."""
        return rate <= self.rate if self.metric == "update_transfer" else rate >= self.rate


@dataclass(frozen=True, slots=True)
class TroubledLayer:
    """A role of a layer in which a measure crosses its limit."""

    role: Role
    layer: str
    trouble: Trouble
    metric: str
    rate: float
    """Mean over the run."""
    hidden: bool = False
    """Whether it shows only once other layers are rescued, and ``rate`` is that of their rescue."""

    @property
    def severity(self) -> float:
        """``rate`` as a multiple of the one from which on the study warns."""
        return self.rate / _WARNS_FROM[self.trouble]

    @property
    def words(self) -> str:
        """``underflow of gradients``, ``bit stall``."""
        return "bit stall" if self.trouble == "stall" else f"{self.trouble} of {self.role}"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a layer loses, without and with a rescue: 0 is nothing, 1 everything."""

    layer: str
    before: float
    after: float


_CAUSES: dict[Role, tuple[Limit, ...]] = {
    role: (
        Limit(role, "underflow", f"underflow_rate/{role}", UNDERFLOWED_FROM),
        Limit(role, "overflow", f"overflow_rate/{role}", SATURATED_FROM),
    )
    for role in OPERAND_ROLES
} | {
    "stored_weights": (
        Limit("stored_weights", "underflow", "zero_share/stored_weights", UNDERFLOWED_FROM),
        Limit("stored_weights", "overflow", "overflow_rate/stored_weights", SATURATED_FROM),
        Limit("stored_weights", "stall", "update_transfer", STALLED_UP_TO),
    )
}
"""Role -> what in a layer is the cause of a failure, the first that holds."""
_WARNS_FROM: dict[Trouble, float] = {
    "underflow": UNDERFLOW_FROM,
    "overflow": OVERFLOW_FROM,
    "stall": STALL_FROM,
}
_STALL = [Limit("stored_weights", "stall", "bit_stall_rate", STALL_FROM)]
_OVERFLOW = [Limit(role, "overflow", f"overflow_rate/{role}", OVERFLOW_FROM) for role in OPERAND_ROLES]
_UNDERFLOW = [Limit(role, "underflow", f"underflow_rate/{role}", UNDERFLOW_FROM) for role in OPERAND_ROLES]


def troubled_layers(run: RunRecord, role: Role) -> list[TroubledLayer]:
    """The layers in which ``role`` is in trouble, in the order of the network."""
    first: dict[str, TroubledLayer] = {}
    for found in _crossings(run, _CAUSES[role]):
        first.setdefault(found.layer, found)
    return list(first.values())


def rank_layers(run: RunRecord, cause: str | None) -> list[TroubledLayer]:
    """The layers with trouble, the worst first; what the verdict names as the cause is looked at first."""
    by_cause = {"saturated": _OVERFLOW, "underflowed": _UNDERFLOW, "stalled": _STALL, "slowed": _STALL}
    of_cause = _worst_first(run, by_cause.get(cause or "", []))
    return of_cause or _worst_first(run, _STALL + _OVERFLOW + _UNDERFLOW)


def layers_at_fault(run: RunRecord, stage: Stage) -> list[TroubledLayer]:
    """The layers in which the trouble of a failing ``stage`` was measured, the worst first.

    Those within half of the worst count; where every layer has it, every layer is named.
    """
    of_stage = [limit for limit in _STALL + _OVERFLOW + _UNDERFLOW if STAGE_OF[limit.role] == stage]
    ranked = _worst_first(run, of_stage)
    return [found for found in ranked if found.severity >= ranked[0].severity / 2]


def _worst_first(run: RunRecord, limits: Iterable[Limit]) -> list[TroubledLayer]:
    """The worst trouble of each layer that has any."""
    worst: dict[str, TroubledLayer] = {}
    for found in sorted(_crossings(run, limits), key=lambda found: -found.severity):
        worst.setdefault(found.layer, found)
    return list(worst.values())


def _crossings(run: RunRecord, limits: Iterable[Limit]) -> Iterator[TroubledLayer]:
    """Every limit that is crossed, layer by layer."""
    means = [(limit, run.layer_means(limit.metric)) for limit in limits]
    for number, layer in enumerate(run.layers):
        for limit, rates in means:
            rate = rates[number]
            if rate is not None and limit.is_crossed(rate):
                yield TroubledLayer(limit.role, layer, limit.trouble, limit.metric, rate)


def unreached_layers(run: RunRecord, role: Role) -> list[str]:
    """Layers in which ``role`` is rounded and nothing but zeros ever came: they hide what they would do."""
    reached = run.layer_means(f"underflow_rate/{role}")  # a share of the values that are not zero
    rounded = run.layer_means(f"overflow_rate/{role}")  # a share of all values
    each = zip(run.layers, reached, rounded, strict=True)
    return [name for name, some, every in each if some is None and every is not None]


def losses(role: Role, run: RunRecord, rescue: RunRecord) -> tuple[str, list[Loss]]:
    """What the layers lose by ``role``'s rounding in ``run`` and not in ``rescue``, and the measure of it.

    Stored weights: the share of the weights with a gradient that an update leaves as they were. Operands: the
    error of the layer's weight gradient against its float32 shadow (same weights, same batch), as a share of
    its length; without a shadow, the length that is missing at the first step.
    """
    nothing: list[float | None] = [0.0] * len(run.layers)
    if role == "stored_weights":
        measure = "zero_update_fraction"
        before, after = run.layer_means(measure), rescue.layer_means(measure)
    elif errors := gradient_errors(run):
        # A rescue that rounds nothing has no shadow to be compared with: it is its own.
        measure, before, after = "gradient_error", errors, gradient_errors(rescue) or nothing
    else:
        measure, after = "gradient_norm", nothing
        norms = zip(run.layer_means(measure, 1), rescue.layer_means(measure, 1), strict=True)
        before = [None if norm is None or not whole else 1 - norm / whole for norm, whole in norms]
    return measure, [
        Loss(layer, lost, left)
        for layer, lost, left in zip(run.layers, before, after, strict=True)
        if lost is not None and left is not None
    ]


def gradient_errors(run: RunRecord) -> list[float | None]:
    """|g - g_ref| / |g_ref| of each layer's weight gradient, by mean cosine and norm ratio; [] unmeasured."""
    ratios = run.layer_means("gradient_norm_ratio")
    if all(ratio is None for ratio in ratios):
        return []
    cosines = run.layer_means("gradient_cosine")
    return [
        None if ratio is None else _error(ratio, cosine)
        for ratio, cosine in zip(ratios, cosines, strict=True)
    ]


def _error(ratio: float, cosine: float | None) -> float:
    if cosine is None:
        return 1.0 if ratio == 0 else math.nan  # no gradient at all: everything is lost
    return math.sqrt(max(0.0, 1 + ratio * ratio - 2 * ratio * cosine))
