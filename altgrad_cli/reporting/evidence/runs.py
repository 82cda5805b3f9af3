"""The runs of a report, what they are in their sweep, and the one way to a number.

Every number of a report is asked for by its source (``Evidence.cite``) and recomputed by the same source when
the report is verified. Arms, controls, verdicts and attributions are those of ``altgrad_cli.sweeps``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from altgrad_cli.config.memory import bits_a_weight
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.metrics.noise import paired_interval
from altgrad_cli.metrics.verdict import loss_scale, recovered_fraction
from altgrad_cli.notation import format_value
from altgrad_cli.reporting.blocks.document import Table, TableColumn, table_of
from altgrad_cli.reporting.blocks.sources import ROW, Source, cited, parse_source
from altgrad_cli.reporting.evidence.quantities import RULES, evaluate, heading
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.layers import LayerAttribution, layer_attributions, noise_of
from altgrad_cli.sweeps.ablation.roles import parts_of
from altgrad_cli.sweeps.ablation.stages import StageAttribution, attribute
from altgrad_cli.sweeps.arms import Arm
from altgrad_cli.sweeps.comparison import Paired
from altgrad_cli.sweeps.format_verdicts.ranking import Ranked
from altgrad_cli.sweeps.format_verdicts.words import FormatVerdict
from altgrad_cli.sweeps.verdicts import JudgedRun

Quantity = Callable[["Evidence", RunRecord, Source], object]
"""What a source's quantity is of a run."""

RULE = "rule"
"""The name that stands for the definitions' constants where a source names a run."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The runs that a report may quote, the arms that they are, and the verdicts on them."""

    runs: Mapping[str, RunRecord]
    """By the name that the report calls them."""
    arms: Mapping[str, Arm]
    """Of each run; none for a log whose configuration this version cannot read."""
    findings: Mapping[str, JudgedRun]
    formats: Sequence[FormatVerdict]
    """What every format comes to over all its seeds and texts."""
    ranks: Sequence[Ranked]
    """Every format's place among those that it can be compared with."""
    groups: Mapping[str, tuple[str, ...]]
    """Names that stand for several runs where a source asks for one value of them: an arm over its seeds and
    texts, or over the seeds on one text (``e7m0-uniform/law``)."""
    _by_config: dict[TrainConfig, Arm] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The arms by their configurations, once that is asked for."""

    def run(self, name: str) -> RunRecord:
        """The run of that name; UsageError where the report has none."""
        try:
            return self.runs[name]
        except KeyError:
            raise UsageError(
                f"no log of a run called {name!r}",
                allowed=", ".join(self.runs),
                hint="name the folder of the sweep or run that the report was made of",
            ) from None

    def group_name(self, names: Sequence[str]) -> str:
        """What a source calls the runs ``names``: their group, or all of them with commas between."""
        found = (group for group, members in self.groups.items() if members == tuple(names))
        return names[0] if len(names) == 1 else next(found, ",".join(names))

    def control(self, log: RunRecord, regime: str) -> RunRecord | None:
        """The control of ``log`` in ``regime`` (fp32, frozen or bf16), or None."""
        arm = self.arms.get(log.name)
        return self.runs.get((arm.controls or {}).get(regime, "")) if arm else None

    def judged(self, log: RunRecord) -> JudgedRun:
        """Verdict, cause and recovered fraction of a run."""
        return self.findings[log.name]

    def parts(self, log: RunRecord) -> dict[str, RunRecord]:
        """Role set (or rescue) -> the run that rounds just that, else like ``log``; itself included."""
        arm = self.arms.get(log.name)
        if not self._by_config:
            self._by_config.update((each.config, each) for each in self.arms.values())
        parts = parts_of(arm, self._by_config) if arm else {}
        return {key: self.runs[part.name] for key, part in parts.items()}

    def attribution(self, log: RunRecord) -> StageAttribution | None:
        """Which stage fails in ``log``, by the runs that are there; None where there are none beside it."""
        rho = {key: self.judged(run).rho for key, run in self.parts(log).items()}
        return attribute(log.name, rho) if len(rho) > 1 else None

    def layer_attributions(self, log: RunRecord) -> list[LayerAttribution]:
        """The roles in trouble in ``log``, layer by layer, with what their rescues show."""
        arm = self.arms.get(log.name)
        return layer_attributions(arm, self.arms.values(), self.findings) if arm else []

    def recovered_fraction(self, log: RunRecord, step: int) -> float | None:
        """rho of ``log`` at ``step``; None without both controls or an evaluation there."""
        runs = (log, self.control(log, "frozen"), self.control(log, "fp32"))
        loss, frozen, fp32 = (run.validation.at(step) if run is not None else None for run in runs)
        if loss is None or frozen is None or fp32 is None:
            return None
        apart_from = loss_scale(log.subject).ends_apart_from
        return recovered_fraction(loss, frozen=frozen, fp32=fp32, apart_from=apart_from)

    def value(self, source: str) -> object:
        """The value that ``source`` names, None where not measured; UsageError where it names nothing."""
        return self._value(parse_source(source))

    def _value(self, source: Source) -> object:
        runs = tuple(run for name in source.runs for run in self.groups.get(name, (name,)))
        if source.over == "number":
            return len(runs)
        if source.over is not None:
            each = [replace(source, runs=(run,), over=None) for run in runs]
            return _over_runs(replace(source, runs=runs), [self._value(alone) for alone in each])
        if len(runs) > 1:
            raise UsageError(
                f"one value of several runs: {', '.join(runs)}",
                hint="say how they become one, for example average",
            )
        (name,) = runs
        if name == RULE:
            if source.quantity not in RULES:
                raise UsageError(f"no rule is called {source.quantity!r}", allowed=", ".join(RULES))
            return RULES[source.quantity]
        log = self.run(name)
        judged_quantity = _JUDGED.get(source.quantity)
        return judged_quantity(self, log, source) if judged_quantity else evaluate(log, source)

    def text(self, source: str) -> str:
        """The value of ``source`` as it is printed."""
        parsed = parse_source(source)
        return format_value(self._value(parsed), parsed.argument or parsed.quantity)

    def cite(self, source: str) -> str:
        """The printed value with its source, for a sentence."""
        return cited(self.text(source), source)

    def of(self, log: RunRecord) -> Callable[[str], str]:
        """``cite`` for one run: ``of(log)("mean(loss)@1-50")``."""
        return lambda quantity: self.cite(f"{log.name}: {quantity}")

    def cite_difference(self, paired: Paired) -> str:
        """``0.024 ± 0.033``, cited: the mean difference in validation loss, half its interval where known."""
        names, loss = f"{paired.firsts},{paired.seconds}", f"at(validation_loss)@{paired.step}"
        text = self.cite(f"{names}: paired {loss}")
        if paired.difference is not None and paired.difference.half_width is not None:
            text += f" ± {self.cite(f'{names}: halfwidth {loss}')}"
        return text

    def table(
        self,
        label_header: str,
        labels: Iterable[object],
        columns: Iterable[str | TableColumn],
        of: str = ROW,
    ) -> Table | None:
        """One row a label, less the columns without a single value; None where none is left.

        Args:
            label_header: above the labels.
            labels: what a row is called, and what ``{}`` stands for in a source.
            columns: a quantity of ``of``, headed as its metric or fact is, or a column with its own words.
            of: the run that the quantities are of; by default the one that the row is named after.
        """
        rows = [str(label) for label in labels]
        headed = [
            TableColumn(heading(column), f"{of}: {column}") if isinstance(column, str) else column
            for column in columns
        ]
        written = [[self.text(column.source.replace(ROW, label)) for label in rows] for column in headed]
        return table_of(label_header, rows, headed, written)


def _controls(evidence: Evidence, log: RunRecord, _: Source) -> str | None:
    names = [run.name for regime in ("fp32", "frozen") if (run := evidence.control(log, regime))]
    return ", ".join(names) or None


def _of_arm(ask: Callable[[Evidence, Arm], object]) -> Quantity:
    """What ``ask`` says of the arm that a run is; None for a run that is none."""
    return lambda evidence, log, _: ask(evidence, arm) if (arm := evidence.arms.get(log.name)) else None


def _attributed(ask: Callable[[LayerAttribution], object]) -> Quantity:
    """What ``ask`` says of the confirmed attribution of the role in parentheses; None without one."""

    def quantity(evidence: Evidence, log: RunRecord, source: Source) -> object:
        confirmed = (a for a in evidence.layer_attributions(log) if a.role == source.argument and a.confirmed)
        return next(map(ask, confirmed), None)

    return quantity


def _verdict(evidence: Evidence, log: RunRecord, _: Source) -> str | None:
    """The grade, or why there is none; None for an end of the scale."""
    verdict = evidence.judged(log).verdict
    if verdict.grade is None and verdict.recovered_fraction is None:
        return f"no verdict: {verdict.open_because}"
    return verdict.grade


def _of_format(ask: Callable[[FormatVerdict], object]) -> Quantity:
    """What ``ask`` says of the format of a run, over all its seeds and texts; None for a run of none."""

    def quantity(evidence: Evidence, log: RunRecord, _: Source) -> object:
        of = (found for found in evidence.formats if any(log.name in each.runs for each in found.texts))
        return next(map(ask, of), None)

    return quantity


def _other_way_round(evidence: Evidence, log: RunRecord, source: Source) -> float | None:
    """The chance that a run's format is better than the one ranked before it; None for the first."""
    arm = _of_format(lambda found: found.arm)(evidence, log, source)
    return next((ranked.other_way_round for ranked in evidence.ranks if ranked.arm == arm), None)


def _ended(evidence: Evidence, log: RunRecord, _: Source) -> str:
    judged_run = evidence.judged(log)
    if judged_run.collapse:
        return str(judged_run.collapse["class"])
    return judged_run.outcome + (", after a warning" if judged_run.warning else "")


def _grade(evidence: Evidence, log: RunRecord, _: Source) -> str | None:
    verdict = evidence.judged(log).verdict
    return verdict.grade or ("no verdict" if verdict.recovered_fraction is None else None)


_JUDGED: dict[str, Quantity] = {
    "grade": _grade,
    "no_verdict_because": lambda evidence, log, _: evidence.judged(log).verdict.open_because,
    "outcome": lambda evidence, log, _: evidence.judged(log).outcome,
    "ended": _ended,
    "warning": lambda evidence, log, _: evidence.judged(log).warning,
    "verdict": _verdict,
    # As earlier reports call them; a control has none.
    "verdict_studied": lambda evidence, log, source: None if log.control else _verdict(evidence, log, source),
    "cause_studied": lambda evidence, log, _: None if log.control else evidence.judged(log).verdict.cause,
    "borderline": lambda evidence, log, _: evidence.judged(log).verdict.borderline,
    "cause": lambda evidence, log, _: evidence.judged(log).verdict.cause,
    "recovered_fraction.step": lambda evidence, log, _: evidence.judged(log).step,
    "loss_gap": lambda evidence, log, _: evidence.judged(log).loss_gap,
    "step_ratio": lambda evidence, log, _: evidence.judged(log).step_ratio,
    "format_word": _of_format(lambda found: found.word),
    "format_evidence": _of_format(lambda found: found.evidence),
    "other_way_round": _other_way_round,
    "controls": _controls,
    "attributed_stage": _attributed(lambda found: found.stage),
    "attributed_layers": _attributed(lambda found: ", ".join(found.layers)),
    "loss_noise": _of_arm(lambda evidence, arm: noise_of(arm, evidence.findings)),
    "bits_a_weight": _of_arm(lambda _, arm: (bits := bits_a_weight(arm.config)) and bits.total),
    "plan.reason": _of_arm(lambda _, arm: arm.reason or None),
    "recovered_fraction": lambda evidence, log, source: evidence.recovered_fraction(
        log, source.first if source.first is not None else evidence.judged(log).step or 0
    ),
}


def _over_runs(source: Source, values: Sequence[object]) -> object:
    """Several runs as one value; None as soon as one of them has none (``leader`` passes those over)."""
    if source.over == "common":
        return values[0] if all(value == values[0] for value in values) else None
    pairs = zip(values, source.runs, strict=True)
    known = [(float(value), run) for value, run in pairs if isinstance(value, int | float)]
    if source.over == "leader":
        ranked = (pair for pair in known if not math.isnan(pair[0]))
        return max(ranked, key=lambda pair: pair[0], default=(0, None))[1]
    if len(known) < len(values):
        return None
    numbers = [value for value, _ in known]
    half = len(numbers) // 2
    interval = paired_interval([a - b for a, b in zip(numbers[:half], numbers[half:], strict=False)])
    finite = all(map(math.isfinite, numbers))
    mean = math.fsum(numbers) / len(numbers) if finite else math.nan
    return {
        "lowest": min(numbers),
        "highest": max(numbers),
        "difference": numbers[0] - numbers[-1],
        "paired": interval and interval.mean,
        "halfwidth": interval and interval.half_width,
        "average": mean,
        "deviation": statistics.stdev(numbers) if len(numbers) > 1 and finite else None,
        "interval": (spread := paired_interval(numbers)) and spread.half_width,
    }[source.over or ""]
