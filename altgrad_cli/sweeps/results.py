"""What lies in a sweep's folder: the plan, the finished runs, and what they came to. Read from events only.

``sweep.json`` keeps the specification, from which everything else is computed anew; the rest of it is a
copy of that for a quick look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from altgrad_cli.errors import UsageError
from altgrad_cli.runs.folder import SWEEP as SWEEP
from altgrad_cli.runs.folder import read_json, write_json
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.layers import LayerAttribution, layer_attributions
from altgrad_cli.sweeps.ablation.stages import StageAttribution, stage_attribution
from altgrad_cli.sweeps.arms import Arm, ArmKind, ArmRow
from altgrad_cli.sweeps.plan import Equivalence, equivalences, plan_sweep
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.sweeps.tuning import RatesTried, rates_tried
from altgrad_cli.sweeps.verdicts import JudgedRun, figures, judge_run, unjudged

SCHEMA = "altgrad.sweep/1"


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm of the plan and, where it has been run, its result."""

    arm: Arm
    run_dir: Path
    finding: JudgedRun | None

    def to_json(self) -> dict[str, object]:
        """The arm's row, as ``sweep --json`` prints it. Null: not measured, or not finished."""
        row: dict[str, object] = {**self.arm.to_json(), "outcome": "unfinished", "run_dir": str(self.run_dir)}
        if self.finding is None:
            return row | dict.fromkeys(_OF_A_RESULT)
        collapse = self.finding.collapse or {}
        return {
            **row,
            **self.finding.to_json(),
            **figures(self.finding.record),
            "collapse_class": collapse.get("class"),
            "collapse_step": self.finding.collapse_step,
            "collapse_detected": collapse.get("detected"),
        }


_OF_A_RESULT = (
    "collapse_class",
    "collapse_step",
    "collapse_detected",
    "final_loss",
    "val_loss",
    "micro_f1",
    "macro_f1",
    "recovered_fraction",
    "recovered_fraction_step",
    "loss_gap",
    "loss_gap_step",
    "step_ratio",
    "stall_rate",
    "update_transfer",
    "overflow_rate",
    "underflow_rate",
    "nonfinite_steps",
    "verdict",
    "no_verdict_because",
    "borderline",
    "cause",
    "warning",
)


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """A sweep, whole or in progress."""

    path: Path
    spec: SweepSpec
    arms: tuple[ArmResult, ...]

    @property
    def name(self) -> str:
        """The sweep's name: that of its folder."""
        return self.path.resolve().name

    @property
    def findings(self) -> dict[str, JudgedRun]:
        """The finished arms' results by name."""
        return {arm.arm.name: arm.finding for arm in self.arms if arm.finding is not None}

    @property
    def planned(self) -> list[Arm]:
        """All arms, in the order of the plan."""
        return [result.arm for result in self.arms]

    @property
    def unfinished(self) -> tuple[ArmResult, ...]:
        """The arms that are planned and have not ended."""
        return tuple(arm for arm in self.arms if arm.finding is None)

    @property
    def equivalences(self) -> tuple[Equivalence, ...]:
        """Formats in the order that are one experiment."""
        return equivalences(self.spec)

    def rates_tried(self) -> list[RatesTried]:
        """The learning rates tried, arm by arm, of a sweep with ``tune``."""
        return rates_tried(self.planned, self.findings)

    def stage_attributions(self) -> list[StageAttribution]:
        """For each failing format arm of a sweep with ``attribute``: which stage fails."""
        each = (stage_attribution(arm, self.planned, self.findings) for arm in self._attributed())
        return [found for found in each if found is not None]

    def layer_attributions(self) -> list[LayerAttribution]:
        """For each arm with rules of a sweep with ``attribute``: the roles in trouble, layer by layer."""
        return [
            found
            for arm in self._attributed()
            if arm.config.precision.rules
            for found in layer_attributions(arm, self.planned, self.findings)
        ]

    def _attributed(self) -> list[Arm]:
        return [
            result.arm
            for result in self.arms
            if self.spec.attribute and result.arm.kind == "format" and result.finding is not None
        ]

    def to_json(self) -> dict[str, object]:
        """The document that ``sweep --json`` prints and ``sweep.json`` holds, less its schema."""
        return {
            "sweep": self.name,
            "equivalent": [str(equal) for equal in self.equivalences],
            "arms": [arm.to_json() for arm in self.arms],
            "rates_tried": [tried.to_json() for tried in self.rates_tried()],
            "attribution": [found.to_json() for found in self.stage_attributions()],
            "places": [found.to_json() for found in self.layer_attributions()],
        }


def judge_records(arms: Sequence[Arm], records: Mapping[str, RunRecord]) -> dict[str, JudgedRun]:
    """Every finished arm with its verdict, against its own controls where those are finished too.

    A run that tries a learning rate is not judged.
    """
    findings = {}
    for arm in arms:
        record = records.get(arm.name)
        if record is not None and arm.kind == "tuning":
            findings[arm.name] = unjudged(record)
        elif record is not None:
            controls = arm.controls or {}
            fp32, frozen = (records.get(controls.get(end, "")) for end in ("fp32", "frozen"))
            findings[arm.name] = judge_run(record, fp32, frozen)
    return findings


def read_spec(path: Path) -> SweepSpec:
    """What the sweep in folder ``path`` was asked to do; UsageError where its ``sweep.json`` does not say."""
    return SweepSpec.from_json(read_json(path / SWEEP, SCHEMA).get("spec"), str(path / SWEEP))


@dataclass(frozen=True, slots=True)
class SweepFile:
    """What ``sweep.json`` says at a glance; the logs of the runs say the rest."""

    state: str
    """``running``, ``interrupted`` or ``finished``."""
    arms: Mapping[str, ArmRow]


def read_sweep(path: Path) -> SweepFile:
    """The sweep in folder ``path`` as its file tells it.

    Raises:
        UsageError: ``sweep.json`` cannot be read, is of another schema or holds no plan.
    """
    document = read_json(path / SWEEP, SCHEMA)
    try:
        rows = [ArmRow.from_json(row) for row in document.get("arms", []) if row["kind"] in get_args(ArmKind)]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UsageError(f"{path / SWEEP} holds no plan: {error!r}", where=str(path / SWEEP)) from None
    return SweepFile(str(document.get("state")), {row.name: row for row in rows})


def assemble(path: Path, spec: SweepSpec, records: Mapping[str, RunRecord]) -> SweepRecord:
    """The sweep in ``path``: the plan that the finished ``records`` (by arm name) lead to, and the verdicts.

    A verdict may call for arms whose records are there too, so it is planned until nothing is added.
    """
    findings: dict[str, JudgedRun] = {}
    while True:
        arms = plan_sweep(spec, findings)
        judged = judge_records(arms, records)
        if judged.keys() == findings.keys():
            break
        findings = judged
    return SweepRecord(
        path, spec, tuple(ArmResult(arm, path / arm.name, judged.get(arm.name)) for arm in arms)
    )


def write_sweep(record: SweepRecord, state: str) -> None:
    """Replace ``sweep.json``; ``state`` is ``running``, ``interrupted`` or ``finished``."""
    rows = [{**arm.to_json(), "run_dir": arm.run_dir.name} for arm in record.arms]  # the folder may be moved
    write_json(
        record.path / SWEEP,
        {
            "schema": SCHEMA,
            "state": state,
            "spec": record.spec.to_json(),
            **record.to_json(),
            "arms": rows,
        },
    )


def is_sweep(path: Path) -> bool:
    """Whether ``path`` is a sweep's folder."""
    return (path / SWEEP).is_file()
