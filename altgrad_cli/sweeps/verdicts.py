"""Holds a run's record against its controls: recovered fraction at a step, grade, cause, collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.verdict import (
    NO_CONTROLS,
    Symptoms,
    Verdict,
    confirms_collapse,
    ends_fault,
    judge,
    loss_scale,
    recovered_fraction,
    steps_to_reach,
)
from altgrad_cli.runs.folder import JsonObject
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.training.watch.collapse import collapse_words


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedRun:
    """One run's record with the verdict on it."""

    record: RunRecord
    verdict: Verdict
    step: int | None
    """The step whose validation losses gave rho; None without rho. Rho means nothing without it."""
    outcome: str
    """``RunRecord.outcome``, but not ``collapsed`` where the end of the run does not confirm it."""
    collapse: JsonObject | None
    """``RunRecord.collapse`` where it is confirmed."""
    loss_gap: float | None = None
    """Validation loss less that of fp32 with the same seed, nats, at ``loss_gap_step``."""
    loss_gap_step: int | None = None
    """The last step at which both were evaluated."""
    step_ratio: float | None = None
    """Steps in which fp32 reached the last validation loss, over this run's; None where it never did."""
    warning: str | None = None
    """A stall collapse that the end of the run does not confirm, in words."""

    @property
    def rho(self) -> float | None:
        """The recovered fraction at ``step``."""
        return self.verdict.recovered_fraction

    @property
    def collapse_step(self) -> int | None:
        """The step at which a confirmed collapse began."""
        collapse = self.collapse or {}
        return collapse.get("onset", collapse.get("step"))

    @property
    def failed(self) -> bool:
        """Whether the verdict says so; an open verdict does not."""
        return self.verdict.grade == "failed"

    def to_json(self) -> dict[str, object]:
        """What ``sweep.json`` and ``run.json`` say of it."""
        return {
            "outcome": self.outcome,
            "warning": self.warning,
            "verdict": self.verdict.grade,
            "no_verdict_because": self.verdict.open_because,
            "borderline": self.verdict.borderline,
            "cause": self.verdict.cause,
            "recovered_fraction": self.rho,
            "recovered_fraction_step": self.step,
            "loss_gap": self.loss_gap,
            "loss_gap_step": self.loss_gap_step,
            "step_ratio": self.step_ratio,
        }


NOT_JUDGED = "it only tries a learning rate"


def unjudged(record: RunRecord) -> JudgedRun:
    """``record`` without a verdict: a run that only tries a learning rate."""
    verdict = Verdict(open_because=NOT_JUDGED)
    return JudgedRun(
        record=record, verdict=verdict, step=None, outcome=record.outcome, collapse=record.collapse
    )


def judge_run(record: RunRecord, fp32: RunRecord | None, frozen: RunRecord | None) -> JudgedRun:
    """Judge ``record`` against controls of the same seed; without both the grade is None.

    Rho is taken at the last step at which all three were evaluated. A control that is an end of the scale
    itself has rho 1 or 0 by definition, and no grade.
    """
    step, rho, fault = None, None, NO_CONTROLS
    if fp32 is not None and frozen is not None:
        step, rho, fault = _last_recovered_fraction(record, fp32, frozen)
    symptoms = _symptoms(record)
    verdict = judge(rho, symptoms, fault)
    if record is fp32 or record is frozen:
        reason = "an end of the scale of rho" if rho is not None else fault
        verdict = Verdict(recovered_fraction=rho, open_because=reason)
    elif rho is None and symptoms.nonfinite and fp32 is not None and frozen is not None:
        # It ended before the controls were first evaluated beside it: failed, with no fraction to tell.
        verdict = replace(judge(math.nan, symptoms), recovered_fraction=None)
    outcome, collapse, warning = record.outcome, record.collapse, None
    if collapse is not None and collapse["class"] == "stall_collapse":
        at_onset = record.validation.before(collapse["onset"])
        if not confirms_collapse(verdict.grade, at_onset=at_onset, at_end=record.validation.last()):
            warning = f"{collapse_words(collapse)}, not confirmed by the end of the run"
            outcome, collapse = "completed", None
    gap, gap_step, ratio = _beside(record, fp32) if fp32 is not None else (None, None, None)
    return JudgedRun(
        record=record,
        verdict=verdict,
        step=step,
        loss_gap=gap,
        loss_gap_step=gap_step,
        step_ratio=ratio,
        outcome=outcome,
        collapse=collapse,
        warning=warning,
    )


def _beside(record: RunRecord, fp32: RunRecord) -> tuple[float | None, int | None, float | None]:
    """Loss gap, the step at which it is taken, and step ratio of ``record`` against ``fp32``."""
    ratio, own = None, list(record.validation)
    if own and own[-1][0] > 0 and record is not fp32:
        steps = steps_to_reach(own[-1][1], fp32.validation)
        ratio = steps / own[-1][0] if steps is not None else None
    for step, loss in reversed(own):
        if (best := fp32.validation.at(step)) is not None:
            return loss - best, step, ratio
    return None, None, ratio


def _last_recovered_fraction(
    record: RunRecord, fp32: RunRecord, frozen: RunRecord
) -> tuple[int | None, float | None, str]:
    """(step, rho, "") at the last step at which all three were evaluated; (None, None, why) without one."""
    apart_from = loss_scale(record.subject).ends_apart_from
    for step, loss in reversed(list(record.validation)):
        best, worst = fp32.validation.at(step), frozen.validation.at(step)
        if best is not None and worst is not None:
            fault = ends_fault(frozen=worst, fp32=best, apart_from=apart_from)
            if fault is not None:
                return None, None, f"{fault} at step {step}"
            return step, recovered_fraction(loss, frozen=worst, fp32=best, apart_from=apart_from), ""
    return None, None, "no evaluation in common with the controls"


def arms_without_verdict(findings: Mapping[str, JudgedRun]) -> dict[str, list[str]]:
    """Why there is no verdict -> the arms of which that is so.

    An end of the scale of rho is none of them, nor is a run of which none was asked.
    """
    arms: dict[str, list[str]] = {}
    for name, found in findings.items():
        if found.rho is None and found.verdict.open_because not in (None, NOT_JUDGED):
            arms.setdefault(found.verdict.open_because, []).append(name)
    return arms


def figures(record: RunRecord) -> dict[str, float | None]:
    """What a run's row shows of its measures, by the keys of ``--json``; None for what was not measured."""
    return {
        "final_loss": record.final_loss,
        "val_loss": record.validation.last(),
        "micro_f1": record.series("micro_f1").last(),
        "macro_f1": record.series("macro_f1").last(),
        "stall_rate": record.end("bit_stall_rate"),
        "update_transfer": record.end("update_transfer"),
        "overflow_rate": record.worst_role("overflow_rate"),
        "underflow_rate": record.worst_role("underflow_rate"),
        "nonfinite_steps": len(record.dropped_steps),
    }


def _symptoms(record: RunRecord) -> Symptoms:
    """What the run measured that bears on a cause; rates are means over its steps, pooled over layers."""
    return Symptoms(
        nonfinite=_ended_nonfinite(record),
        diverged=_diverges(record),
        underflow={role: record.mean(f"underflow_rate/{role}") for role in OPERAND_ROLES},
        stored_zero_share=record.mean("zero_share/stored_weights"),
        overflow={role: record.mean(f"overflow_rate/{role}") for role in OPERAND_ROLES},
        median_transfer=record.median("update_transfer"),
    )


def _ended_nonfinite(record: RunRecord) -> bool:
    return (record.collapse or {}).get("class") == "nonfinite"


def _diverges(record: RunRecord) -> bool:
    """Whether the divergence flag was up at the end."""
    flag = [alert.state for alert in record.alerts if alert.name == "divergence"]
    return bool(flag) and flag[-1] == "raised"


def tuning_loss(record: RunRecord) -> float:
    """The validation loss by which a learning rate is chosen: the last; inf for a run that did not hold.

    A stalled run has held: it is as good as its loss.
    """
    loss = record.validation.last()
    lost = loss is None or math.isnan(loss) or _ended_nonfinite(record) or _diverges(record)
    return math.inf if lost or loss is None else loss
