"""What a whole run came to: recovered fraction, perplexity, verdict and cause, from plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from altgrad_cli.metrics.spec import MetricSpec
from altgrad_cli.metrics.thresholds import (
    EDGE_WIDTH,
    ENDS_APART_FROM,
    ENDS_APART_FROM_LABELS,
    FAILED_BELOW,
    SATURATED_FROM,
    SLOWED_UP_TO,
    STALLED_UP_TO,
    TRAINED_FROM,
    UNDERFLOWED_FROM,
)

Grade = Literal["trained", "degraded", "failed"]
Cause = Literal["nonfinite", "diverged", "underflowed", "saturated", "stalled", "slowed", "unexplained"]
GRADES: tuple[Grade, ...] = ("failed", "degraded", "trained")
"""The worst first."""
NO_CONTROLS = "no fp32 and frozen control of the same seed and settings"


def perplexity(loss: float) -> float:
    """exp of a loss in nats; inf where that exceeds a float64, NaN for NaN."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def f1(hits: int, false_alarms: int, misses: int) -> float:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 0 where there is nothing at all."""
    found = 2 * hits + false_alarms + misses
    return 2 * hits / found if found else 0.0


@dataclass(frozen=True, slots=True)
class LossScale:
    """How the losses of a subject are read."""

    unit: str = "nats per token"
    ends_apart_from: float = ENDS_APART_FROM


_LOSS_SCALES = {"eurovoc": LossScale("nats per label", ENDS_APART_FROM_LABELS)}


def loss_scale(subject: str) -> LossScale:
    """That of the subject of this name; what is not known otherwise is read as losses a token."""
    return _LOSS_SCALES.get(
        subject, LossScale("of the subject's own loss") if ":" in subject else LossScale()
    )


def recovered_fraction(
    loss: float, *, frozen: float, fp32: float, apart_from: float = ENDS_APART_FROM
) -> float | None:
    """rho = (L_frozen - L) / (L_frozen - L_fp32), validation losses of the same seed at the same step.

    1: as good as float32. 0: no better than leaving the linear layers frozen. None where that scale has no
    length (``ends_fault``). A NaN loss gives NaN, an infinite one -inf.
    """
    fault = ends_fault(frozen=frozen, fp32=fp32, apart_from=apart_from)
    return None if fault else (frozen - loss) / (frozen - fp32)


def ends_fault(*, frozen: float, fp32: float, apart_from: float = ENDS_APART_FROM) -> str | None:
    """Why no fraction of the way from ``frozen`` to ``fp32`` means anything, in words; None where it does.

    That is, unless they lie at least ``apart_from`` apart, which is that of the subject's ``loss_scale``.
    """
    if not (math.isfinite(frozen) and math.isfinite(fp32)):
        return "a control is not finite"
    if frozen - fp32 < apart_from:
        return f"fp32 and frozen are {frozen - fp32:.3f} nats apart, less than {apart_from:g}"
    return None


def steps_to_reach(loss: float, curve: Iterable[tuple[int, float]]) -> float | None:
    """The step at which ``curve`` first came down to ``loss``, between two evaluations in proportion.

    Args:
        loss: a validation loss, nats.
        curve: (step, validation loss), ascending by step. Its running minimum is what is read, which no NaN
            lowers.

    None where it never did, or where it lies below ``loss`` from the first evaluation on.
    """
    lowest, at = math.nan, 0  # NaN: there is no evaluation yet
    for step, value in curve:
        if math.isnan(value):
            continue
        if value <= loss:
            if math.isnan(lowest):
                return float(step) if value == loss else None
            return step if math.isinf(lowest) else at + (lowest - loss) / (lowest - value) * (step - at)
        lowest, at = value if math.isnan(lowest) else min(lowest, value), step
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptoms:
    """What a run measured that bears on why it fell short. None: not measured."""

    nonfinite: bool = False
    """It ended because something was not finite."""
    diverged: bool = False
    """The divergence flag was up at the end."""
    underflow: Mapping[str, float | None] = field(default_factory=dict)
    """Underflow rate pooled over all layers, by role."""
    stored_zero_share: float | None = None
    """Share of the stored weights that were rounded to 0, pooled over all layers."""
    overflow: Mapping[str, float | None] = field(default_factory=dict)
    """Overflow rate pooled over all layers, by role."""
    median_transfer: float | None = None
    """Median over the steps of the pooled update transfer tau; None with float32 masters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one run came to."""

    grade: Grade | None = None
    """None where rho is not known."""
    borderline: bool = False
    """rho lies within 0.05 of an edge between two grades."""
    cause: Cause | None = None
    """Why it is below ``trained``; None when trained, or without controls when nothing points anywhere."""
    recovered_fraction: float | None = None
    open_because: str | None = None
    """Why there is no grade, in words."""

    @property
    def suspected(self) -> bool:
        """Whether the cause was found without a control that shows the run fell short at all."""
        return self.cause is not None and self.grade is None


def _reaches(rates: Mapping[str, float | None], limit: float) -> bool:
    return any(rate is not None and rate >= limit for rate in rates.values())


def find_cause(symptoms: Symptoms) -> Cause:
    """The first cause that holds, in the order of ``Cause``. Rates are pooled, never one layer's maximum."""
    zeros = {"stored_weights": symptoms.stored_zero_share}
    tau = symptoms.median_transfer
    if symptoms.nonfinite:
        return "nonfinite"
    if symptoms.diverged:
        return "diverged"
    if _reaches(symptoms.underflow, UNDERFLOWED_FROM) or _reaches(zeros, UNDERFLOWED_FROM):
        return "underflowed"
    if _reaches(symptoms.overflow, SATURATED_FROM):
        return "saturated"
    if tau is not None and tau <= STALLED_UP_TO:
        return "stalled"
    if tau is not None and tau <= SLOWED_UP_TO:
        return "slowed"
    return "unexplained"


def grade_of(rho: float) -> Grade:
    """The grade of a recovered fraction; NaN failed."""
    if not rho >= FAILED_BELOW:
        return "failed"
    return "trained" if rho >= TRAINED_FROM else "degraded"


def grades_between(low: float, high: float) -> tuple[Grade, ...]:
    """Every grade that a recovered fraction from ``low`` to ``high`` may have, the worst first."""
    return GRADES[GRADES.index(grade_of(low)) : GRADES.index(grade_of(high)) + 1]


def judge(rho: float | None, symptoms: Symptoms, open_because: str = NO_CONTROLS) -> Verdict:
    """Grade a run by its recovered fraction and name the cause of anything below ``trained``.

    Args:
        rho: ``recovered_fraction``; None leaves the grade open.
        symptoms: what the run measured.
        open_because: why there is no rho.

    A run that ended non-finite, or whose rho is NaN, failed whatever rho says.
    """
    cause = find_cause(symptoms)
    if rho is None:
        return Verdict(cause=None if cause == "unexplained" else cause, open_because=open_because)
    grade: Grade = "failed" if symptoms.nonfinite else grade_of(rho)
    near_edge = any(abs(rho - edge) <= EDGE_WIDTH for edge in (FAILED_BELOW, TRAINED_FROM))
    return Verdict(
        grade=grade,
        borderline=near_edge and not symptoms.nonfinite,
        cause=None if grade == "trained" else cause,
        recovered_fraction=rho,
    )


def confirms_collapse(grade: Grade | None, *, at_onset: float | None, at_end: float | None) -> bool:
    """Whether the end of a run confirms a stall collapse that was detected in it; if not, that was a warning.

    Args:
        grade: of the whole run. What failed is confirmed, what trained is not. None, without the controls
            nothing tells what the linear layers learned from what the embeddings did: it stands as detected.
        at_onset: validation loss of the deployed model where the collapse began.
        at_end: the same at the end: a degraded run collapsed if it learned nothing more.
    """
    if grade == "degraded" and at_onset is not None and at_end is not None:
        return not at_end < at_onset
    return grade != "trained"


OUTCOME_METRICS = (
    MetricSpec(
        "loss",
        "cross-entropy of the training batch, a token (or a label), forward pass with rounding",
        unit="nats",
        scope="run",
        bad="high",
    ),
    MetricSpec("learning_rate", "learning rate of the step", unit="1", scope="run"),
    MetricSpec(
        "gradient_clip_norm",
        "L2 norm of the whole gradient before optimizer.gradient_clip scaled it down",
        unit="loss per weight unit",
        scope="run",
        bad="high",
    ),
    MetricSpec(
        "tokens_per_second", "training tokens over wall time, the last step", unit="tokens/s", scope="run"
    ),
    MetricSpec(
        "validation_loss",
        "validation cross-entropy of the deployed (rounded) model, a token (or a label)",
        unit="nats",
        heading="validation loss",
        scope="run",
        bad="high",
    ),
    MetricSpec(
        "validation_loss_master",
        "validation cross-entropy of the stored weights without any rounding, a token (or a label)",
        unit="nats",
        scope="run",
        bad="high",
    ),
    MetricSpec(
        "perplexity",
        "exp of the validation loss of the deployed model",
        unit="1",
        scope="run",
        bad="high",
    ),
    MetricSpec(
        "micro_f1",
        "F1 over all pairs of a validation document and a label, predicted from 0.5 on; deployed model",
        unit="1",
        scope="run",
        bad="low",
    ),
    MetricSpec(
        "macro_f1",
        "mean over the labels of the F1 of each, 0 for one that no document has; deployed model",
        unit="1",
        scope="run",
        bad="low",
    ),
    MetricSpec(
        "recovered_fraction",
        "rho = (L_frozen - L) / (L_frozen - L_fp32) on the validation loss of the deployed model, "
        "same seed, same step",
        heading="rho",
        scope="run",
        bad="low",
    ),
    MetricSpec(
        "loss_gap",
        "validation loss less that of the fp32 control of the same seed, at the last common evaluation",
        unit="nats",
        heading="loss gap to fp32",
        scope="run",
        bad="high",
    ),
    MetricSpec(
        "step_ratio",
        "step at which the fp32 control of the same seed first reached this run's last validation loss "
        "(between evaluations in proportion), over the step of that loss",
        unit="1",
        heading="step ratio",
        scope="run",
        bad="low",
    ),
)
