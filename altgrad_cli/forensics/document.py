"""What a diagnosis says, part by part: the document that ``--json`` prints and the pages render."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from altgrad_cli.checkpoints.payload import to_plain
from altgrad_cli.forensics.against import Comparison
from altgrad_cli.forensics.batch_report import BatchReport
from altgrad_cli.forensics.failure import Failure, FailureClass, OptimizerReport
from altgrad_cli.forensics.layer_table import GridMeasures, LayerRow
from altgrad_cli.forensics.lead_time import LeadTime
from altgrad_cli.forensics.mechanism import Mechanism
from altgrad_cli.forensics.opened import Trust
from altgrad_cli.forensics.provenance import AmaxSuspect, Origin
from altgrad_cli.forensics.step_again.foreign_step import LayerFit
from altgrad_cli.forensics.step_again.replay import Replay, not_run
from altgrad_cli.forensics.step_again.what_if import Counterfactual

SCHEMA = "altgrad.diagnose-checkpoint/1"
Severity = Literal["failure", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence that a reader should know."""

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class NextCommand:
    """What to type next, and why."""

    command: str
    why: str


class _Document:
    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """The document as plain values, by the keys of the schema."""
        document: dict[str, object] = to_plain(self)
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis(_Document):
    """Of a checkpoint that altgrad wrote."""

    file: str
    kind: str = "altgrad checkpoint"
    run: str | None
    """The run's folder, where the file still lies in it."""
    trust: Trust
    failure: Failure
    first_nonfinite: Origin | None
    mechanism: Mechanism
    amax_suspects: tuple[AmaxSuspect, ...]
    lead_time: LeadTime
    layers: tuple[LayerRow, ...]
    """Worst first, the origin before its victims."""
    optimizer: OptimizerReport
    replay: Replay
    counterfactuals: tuple[Counterfactual, ...]
    minimal_bf16_layers: tuple[str, ...] | None
    batch: BatchReport | None
    against: Comparison | None
    findings: tuple[Finding, ...] = ()
    """Most important first."""
    next: NextCommand | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignTrust:
    """What vouches for a file of another program."""

    schema: None = None
    verified: tuple[str, ...]
    complete: None = None
    injected: None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignFailure:
    """Whether its values are finite; of how they came about nothing is known."""

    kind: FailureClass = field(metadata={"key": "class"})
    step: None = None
    nonfinite_count: int | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tensor that was not judged."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRow:
    """A tensor that was judged, counted in its own type."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nonfinite_weights: int
    first_nonfinite_index: int | None
    amax: float
    zero_share: float
    format: str | None
    """The grid that it was judged by, in words."""
    scale: float | None
    grid: GridMeasures = field(metadata={"merged": {}})


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignDiagnosis(_Document):
    """Of tensors that altgrad did not write: their values are known, and nothing else."""

    file: str
    kind: str
    trust: ForeignTrust
    failure: ForeignFailure
    first_nonfinite: Origin | None = None
    """In execution order, where a subject was named that the weights were loaded into."""
    fits: tuple[LayerFit, ...] = ()
    """Likewise: every layer's weights on every format."""
    mechanism: Mechanism = field(default_factory=lambda: Mechanism(None, ()))
    layers: tuple[TensorRow, ...]
    replay: Replay = field(default_factory=not_run)
    counterfactuals: tuple[Counterfactual, ...] = ()
    minimal_bf16_layers: None = None
    not_judged: tuple[LeftOut, ...]
    findings: tuple[Finding, ...]
