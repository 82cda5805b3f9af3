"""Where in the network rounding does damage: the role and the layers, and what those layers lose by it.

Everything is read from one run, as means of its layers' own measures. The limits are those by which a whole
run's cause is found, taken layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from altgrad_cli.config.precision import OPERAND_ROLES, REGIME_ROLES, Role
from altgrad_cli.metrics.thresholds import SATURATED_FROM, STALLED_UP_TO, UNDERFLOWED_FROM
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.runs.series import Series

Trouble = Literal["underflow", "overflow", "stall"]
Values = Sequence[float | None]

PLACE_ROLES: tuple[Role, ...] = REGIME_ROLES["uniform"]
_LIMITS: dict[Role, tuple[tuple[str, Trouble, float], ...]] = {
    **{
        role: (
            (f"underflow_rate/{role}", "underflow", UNDERFLOWED_FROM),
            (f"overflow_rate/{role}", "overflow", SATURATED_FROM),
        )
        for role in PLACE_ROLES
        if role in OPERAND_ROLES
    },
    "stored_weights": (
        ("zero_share/stored_weights", "underflow", UNDERFLOWED_FROM),
        ("overflow_rate/stored_weights", "overflow", SATURATED_FROM),
    ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What is read of one run."""

    layers: tuple[str, ...]
    mean: Callable[[str], Values]
    """Metric -> its mean over the run for each layer (None: not measured); empty where it is not logged."""
    first: Callable[[str], Values]
    """The same at the first step, where runs of one seed still have the same weights and batch."""
    validation: Series


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


@dataclass(frozen=True, slots=True)
class Loss:
    """What a layer loses, without and with a rescue: 0 is nothing, 1 everything."""

    layer: str
    before: float
    after: float


def measured(record: RunRecord) -> Measured:
    """What ``record`` holds of the layers."""

    def mean(metric: str) -> Values:
        return record.layer_means(metric) if metric in record.layer_metrics else ()

    def first(metric: str) -> Values:
        return record.layer_means(metric, 1) if metric in record.layer_metrics else ()

    return Measured(tuple(record.layers), mean, first, record.validation)


def troubled_places(run: Measured, role: Role) -> list[TroubledLayer]:
    """The layers in which ``role`` is in trouble, in the order of the network."""
    found: dict[int, TroubledLayer] = {}
    for metric, trouble, limit in _LIMITS[role]:
        for layer, rate in enumerate(run.mean(metric)):
            if rate is not None and rate >= limit:
                found.setdefault(layer, TroubledLayer(role, run.layers[layer], trouble, metric, rate))
    if role == "stored_weights":
        for layer, rate in enumerate(run.mean("update_transfer")):
            if rate is not None and rate <= STALLED_UP_TO:
                place = TroubledLayer(role, run.layers[layer], "stall", "update_transfer", rate)
                found.setdefault(layer, place)
    return [found[layer] for layer in sorted(found)]


def unreached_layers(run: Measured, role: Role) -> list[str]:
    """Layers in which ``role`` is rounded and nothing but zeros ever came: they hide what they would do."""
    reached = run.mean(f"underflow_rate/{role}")  # a share of the values that are not zero
    rounded = run.mean(f"overflow_rate/{role}")  # a share of all values
    return [
        name
        for name, some, every in zip(run.layers, reached, rounded, strict=False)
        if some is None and every is not None
    ]


def losses(role: Role, run: Measured, rescue: Measured) -> tuple[str, list[Loss]]:
    """What the layers lose by ``role``'s rounding in ``run`` and not in ``rescue``, and the measure of it.

    Stored weights: the share of the weights with a gradient that an update leaves as they were. Operands: the
    error of the layer's weight gradient against its float32 shadow (same weights, same batch), as a share of
    its length; without a shadow, the length that is missing at the first step.
    """
    if role == "stored_weights":
        return "zero_update_fraction", _pairs(
            run.layers, run.mean("zero_update_fraction"), rescue.mean("zero_update_fraction")
        )
    errors = gradient_errors(run)
    if errors:
        # A rescue that rounds nothing has no shadow to be compared with: it is its own.
        return "gradient_error", _pairs(run.layers, errors, gradient_errors(rescue) or [0.0] * len(errors))
    return "gradient_norm", _pairs(
        run.layers,
        [
            None if norm is None or not whole else 1 - norm / whole
            for norm, whole in zip(run.first("gradient_norm"), rescue.first("gradient_norm"), strict=False)
        ],
        [0.0] * len(run.layers),
    )


def gradient_errors(run: Measured) -> list[float | None]:
    """|g - g_ref| / |g_ref| of each layer's weight gradient, by mean cosine and norm ratio; may be []."""
    ratios = run.mean("gradient_norm_ratio")
    cosines = run.mean("gradient_cosine")
    if not ratios or not cosines:
        return []
    return [
        None if ratio is None else _error(ratio, cosine)
        for ratio, cosine in zip(ratios, cosines, strict=True)
    ]


def _error(ratio: float, cosine: float | None) -> float:
    if cosine is None:
        return 1.0 if ratio == 0 else math.nan  # no gradient at all: everything is lost
    return math.sqrt(max(0.0, 1 + ratio * ratio - 2 * ratio * cosine))


def _pairs(layers: Sequence[str], before: Values, after: Values) -> list[Loss]:
    return [
        Loss(layer, lost, left)
        for layer, lost, left in zip(layers, before, after, strict=False)
        if lost is not None and left is not None
    ]
