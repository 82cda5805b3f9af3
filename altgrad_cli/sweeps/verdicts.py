"""Holds a run's record against its controls: recovered fraction at a step, grade and cause."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.metrics.verdict import Evidence, Verdict, judge, recovered_fraction
from altgrad_cli.runs.record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict on one run, and what it was reached with."""

    verdict: Verdict
    step: int | None
    """The step whose validation losses gave rho; None without rho. Rho means nothing without it."""
    evidence: Evidence

    @property
    def rho(self) -> float | None:
        """The recovered fraction at ``step``."""
        return self.verdict.recovered_fraction


def judge_run(record: RunRecord, fp32: RunRecord | None, frozen: RunRecord | None) -> Judgement:
    """Judge ``record`` against controls of the same seed; without both the grade is None.

    Rho is taken at the last step at which all three were evaluated.
    """
    step, rho = None, None
    if fp32 is not None and frozen is not None:
        step, rho = last_recovered_fraction(record, fp32, frozen)
    evidence = gather_evidence(record)
    verdict = judge(rho, evidence)
    if rho is None and evidence.nonfinite and fp32 is not None and frozen is not None:
        # It ended before the controls were first evaluated beside it: failed, with no fraction to tell.
        verdict = replace(judge(math.nan, evidence), recovered_fraction=None)
    return Judgement(verdict=verdict, step=step, evidence=evidence)


def as_reference(judgement: Judgement) -> Judgement:
    """The judgement of a control that defines the scale: rho is 1 or 0 by definition, and no grade."""
    verdict = replace(judgement.verdict, grade=None, borderline=False, cause=None, suspected=False)
    return replace(judgement, verdict=verdict)


def recovered_fractions(record: RunRecord, fp32: RunRecord, frozen: RunRecord) -> list[tuple[int, float]]:
    """(step, rho) at every step at which the run and both controls were evaluated."""
    ends = {step: (loss, frozen.validation.at(step)) for step, loss in fp32.validation}
    found = []
    for step, loss in record.validation:
        best, worst = ends.get(step, (None, None))
        if best is not None and worst is not None:
            rho = recovered_fraction(loss, frozen=worst, fp32=best)
            if rho is not None:
                found.append((step, rho))
    return found


def last_recovered_fraction(
    record: RunRecord, fp32: RunRecord, frozen: RunRecord
) -> tuple[int | None, float | None]:
    """The last (step, rho), or (None, None)."""
    found = recovered_fractions(record, fp32, frozen)
    return found[-1] if found else (None, None)


def gather_evidence(record: RunRecord) -> Evidence:
    """What the run measured that bears on a cause; rates are means over its steps, pooled over layers."""
    divergence = [alert["state"] for alert in record.alerts if alert["name"] == "divergence"]
    return Evidence(
        nonfinite=(record.collapse or {}).get("class") == "nonfinite",
        diverged=bool(divergence) and divergence[-1] == "raised",
        underflow={role: record.mean(f"underflow_rate/{role}") for role in OPERAND_ROLES},
        stored_zero_share=record.mean("zero_share/stored_weights"),
        overflow={role: record.mean(f"overflow_rate/{role}") for role in OPERAND_ROLES},
        median_transfer=record.median("update_transfer"),
    )
