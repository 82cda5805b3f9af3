"""The runs of a report, which of them are each other's controls, and the one way to a number.

Every number of a report is asked for by its source (``Evidence.cite``) and recomputed by the same source when
the report is verified. Controls are found by the logs themselves: the fp32 and the frozen run that differ
from a run in nothing but its precision.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from altgrad_cli.errors import UsageError
from altgrad_cli.metrics.noise import paired_interval
from altgrad_cli.metrics.verdict import recovered_fraction
from altgrad_cli.reporting.blocks.notation import format_value
from altgrad_cli.reporting.blocks.sources import Source, cited, parse_source
from altgrad_cli.reporting.evidence.columns import RunLog
from altgrad_cli.reporting.evidence.places import noise_of, places_of
from altgrad_cli.reporting.evidence.quantities import evaluate
from altgrad_cli.reporting.evidence.reductions import series_of
from altgrad_cli.reporting.evidence.rules import RULES
from altgrad_cli.sweeps.ablation.layers import LocalAttribution
from altgrad_cli.sweeps.verdicts import Judgement, judge_run

RULE = "rule"
"""The name that stands for the definitions' constants where a source names a run."""

_SAME_IN_A_CONTROL = ("seed", "batch_size", "learning_rate", "max_steps", "model", "data", "optimizer")


def pairing_key(log: RunLog) -> str:
    """What a run shares with its controls: seed, batches, model, schedule; everything but the precision."""
    config = log.record.config
    return json.dumps({key: config.get(key) for key in _SAME_IN_A_CONTROL}, sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class ArmNote:
    """What the plan of a sweep says about a run."""

    kind: str
    retry_of: str | None = None
    reason: str = ""
    controls: Mapping[str, str] | None = None
    """``fp32`` and ``frozen`` -> the name of that control's run; None where the plan does not say."""


@dataclass(slots=True)
class Evidence:
    """The logs that a report may quote."""

    runs: Mapping[str, RunLog]
    """By the name that the report calls them."""
    notes: Mapping[str, ArmNote] = field(default_factory=dict)
    """What the plan of their sweep says of them; a run of no sweep has none."""
    _judgements: dict[str, Judgement] = field(default_factory=dict)
    _places: dict[str, list[LocalAttribution]] = field(default_factory=dict)

    def run(self, name: str) -> RunLog:
        """The run of that name; UsageError where the report has none."""
        try:
            return self.runs[name]
        except KeyError:
            raise UsageError(
                f"no log of a run called {name!r}",
                allowed=", ".join(self.runs),
                hint="name the folder of the sweep or run that the report was made of",
            ) from None

    def control(self, log: RunLog, regime: str) -> RunLog | None:
        """The control of ``log`` in ``regime`` (fp32, frozen or bf16), or None.

        The two ends are those of the sweep's plan; a run of no sweep is held against the first that fits.
        """
        note = self.notes.get(log.name)
        if note is not None and note.controls and regime in note.controls:
            return self.runs.get(note.controls[regime])
        key = pairing_key(log)
        return next(
            (run for run in self.runs.values() if run.control == regime and pairing_key(run) == key),
            None,
        )

    def judgement(self, log: RunLog) -> Judgement:
        """Verdict, cause and recovered fraction of a run."""
        if log.name not in self._judgements:
            fp32, frozen = self.control(log, "fp32"), self.control(log, "frozen")
            self._judgements[log.name] = judge_run(
                log.record, fp32.record if fp32 else None, frozen.record if frozen else None
            )
        return self._judgements[log.name]

    def places(self, log: RunLog) -> list[LocalAttribution]:
        """The roles in trouble in ``log``, layer by layer, with what their rescues show."""
        if log.name not in self._places:
            self._places[log.name] = places_of(self, log)
        return self._places[log.name]

    def recovered_fraction(self, log: RunLog, step: int) -> float | None:
        """rho of ``log`` at ``step``; None without both controls or an evaluation there."""
        losses = []
        for run in (log, self.control(log, "frozen"), self.control(log, "fp32")):
            steps, values = series_of(run, "validation_loss") if run else ((), ())
            at = [value for s, value in zip(steps, values, strict=True) if s == step]
            losses.append(float(at[0]) if at else None)
        loss, frozen, fp32 = losses
        if loss is None or frozen is None or fp32 is None:
            return None
        return recovered_fraction(loss, frozen=frozen, fp32=fp32)

    def value(self, source: Source | str) -> Any:
        """The value that ``source`` names, None where not measured; UsageError where it names nothing."""
        if isinstance(source, str):
            source = parse_source(source)
        if source.over is not None:
            return _over_runs(
                source, [self.value(source.of_run(run)) for run in source.runs if source.quantity]
            )
        (name,) = source.runs
        if name == RULE:
            if source.quantity not in RULES:
                raise UsageError(f"no rule is called {source.quantity!r}", allowed=", ".join(RULES))
            return RULES[source.quantity]
        log = self.run(name)
        if source.quantity in _JUDGED:
            return _JUDGED[source.quantity](self, log, source)
        return evaluate(log, source)

    def text(self, source: Source | str) -> str:
        """The value of ``source`` as it is printed."""
        if isinstance(source, str):
            source = parse_source(source)
        return format_value(self.value(source), source.argument or source.quantity)

    def cite(self, source: Source | str) -> str:
        """The printed value with its source, for a sentence."""
        if isinstance(source, str):
            source = parse_source(source)
        return cited(self.text(source), source)

    def of(self, log: RunLog) -> Callable[[str], str]:
        """``cite`` for one run: ``of(log)("mean(loss)@1-50")``."""
        return lambda quantity: self.cite(f"{log.name}: {quantity}")


def _controls(evidence: Evidence, log: RunLog, _: Source) -> str | None:
    names = [run.name for regime in ("fp32", "frozen") if (run := evidence.control(log, regime))]
    return ", ".join(names) or None


def _plan_reason(evidence: Evidence, log: RunLog, _: Source) -> str | None:
    note = evidence.notes.get(log.name)
    return note.reason or None if note else None


def _attributed(evidence: Evidence, log: RunLog, source: Source) -> LocalAttribution | None:
    return next((a for a in evidence.places(log) if a.role == source.argument and a.confirmed), None)


def _attributed_stage(evidence: Evidence, log: RunLog, source: Source) -> str | None:
    found = _attributed(evidence, log, source)
    return found.stage if found else None


def _attributed_layers(evidence: Evidence, log: RunLog, source: Source) -> str | None:
    found = _attributed(evidence, log, source)
    return ", ".join(found.layers) if found else None


def _verdict(evidence: Evidence, log: RunLog, _: Source) -> str | None:
    """The grade, or why there is none; None for an end of the scale."""
    verdict = evidence.judgement(log).verdict
    if verdict.grade is None and verdict.recovered_fraction is None:
        return f"no verdict: {verdict.open_because}"
    return verdict.grade


def _ended(evidence: Evidence, log: RunLog, _: Source) -> str:
    judgement = evidence.judgement(log)
    return judgement.collapse["class"] if judgement.collapse else judgement.outcome


_JUDGED: dict[str, Callable[[Evidence, RunLog, Source], Any]] = {
    "outcome": lambda evidence, log, _: evidence.judgement(log).outcome,
    "ended": _ended,
    "warning": lambda evidence, log, _: evidence.judgement(log).warning,
    "verdict": _verdict,
    "borderline": lambda evidence, log, _: evidence.judgement(log).verdict.borderline,
    "cause": lambda evidence, log, _: evidence.judgement(log).verdict.cause,
    "recovered_fraction.step": lambda evidence, log, _: evidence.judgement(log).step,
    "controls": _controls,
    "attributed_stage": _attributed_stage,
    "attributed_layers": _attributed_layers,
    "loss_noise": lambda evidence, log, _: noise_of(evidence, log),
    "plan.reason": _plan_reason,
    "recovered_fraction": lambda evidence, log, source: evidence.recovered_fraction(
        log, source.first if source.first is not None else evidence.judgement(log).step or 0
    ),
}


def _over_runs(source: Source, values: Sequence[Any]) -> Any:
    """Several runs as one value; None as soon as one of them has none (``leader`` passes those over)."""
    if source.over == "number":
        return len(source.runs)
    if source.over == "leader":
        known = [
            (value, run)
            for run, value in zip(source.runs, values, strict=True)
            if value is not None and not math.isnan(value)
        ]
        return max(known, key=lambda item: item[0])[1] if known else None
    if any(value is None for value in values):
        return None
    if source.over in ("lowest", "highest"):
        return min(values) if source.over == "lowest" else max(values)
    if source.over == "difference":
        first, second = values
        return float(first - second)
    if source.over in ("paired", "halfwidth"):
        half = len(values) // 2
        interval = paired_interval([a - b for a, b in zip(values[:half], values[half:], strict=True)])
        return (interval.mean if source.over == "paired" else interval.half_width) if interval else None
    if source.over == "average":
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None
