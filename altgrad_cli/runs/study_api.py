"""The study's own Python names for one run of one format, on the same engine as everything else.

``FormatExperimentRunner(config).run()`` trains and hands back an ``ExperimentResult``;
``run_format_experiment("e7m0_uniform", "cpu")`` does the same from a config and keeps a run's folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.folder import RUNS, create_run, safe_name, sole_writer, unused_path
from altgrad_cli.runs.run import carry_out
from altgrad_cli.training.events import Evaluated, Event, Number, RunEnded, RunStarted, StepCompleted

LAST_SNAPSHOTS = 5
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticSnapshot:
    """Everything measured at one diagnostic interval."""

    step: int
    format: str
    """The format in force at that step."""
    metrics: Mapping[str, Number]
    """Metric -> value pooled over the layers; None: not measured."""
    layers: Mapping[str, Mapping[str, Number]]
    """Metric -> layer -> value."""
    histograms: Mapping[str, Mapping[str, Sequence[int]]]
    """Role -> layer -> counts by code, the NaN bin last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentResult:
    """What one run came to."""

    initial_format: str
    """The format the run was started with; a shift never changes it."""
    format_timeline: tuple[tuple[int, str], ...]
    """(step, format) from which each format was in force."""
    outcome: str
    """``completed``, ``collapsed`` or ``plateau``."""
    collapse_class: str | None
    collapse_step: int | None
    collapse_reason: str | None
    losses: tuple[float | None, ...]
    """Training loss of every step, NaN included."""
    validation_losses: tuple[tuple[int, Number], ...]
    """(step, validation loss of the rounded model)."""
    snapshots: tuple[DiagnosticSnapshot, ...]
    """The last five diagnostic intervals."""
    run_dir: Path | None

    @property
    def collapsed(self) -> bool:
        """Whether the run ended in collapse."""
        return self.outcome == "collapsed"

    @property
    def final_loss(self) -> float | None:
        """Training loss of the last step."""
        return self.losses[-1] if self.losses else None


class FormatExperimentRunner:
    """Carries out one run of one format.

    Args:
        config: the run; ``config.fp8_format`` is the format under study.
        run_dir: a new folder for the log and the checkpoints; None writes nothing.
    """

    def __init__(self, config: TrainConfig, *, run_dir: str | Path | None = None) -> None:
        self.config = config
        self.run_dir = None if run_dir is None else Path(run_dir)

    def run(self) -> ExperimentResult:
        """Train to the end; UsageError where config, corpus or folder cannot be used."""
        collected = _Collected()
        if self.run_dir is None:
            from altgrad_cli.training.engine import train

            for event in train(self.config):
                collected.receive(event)
        else:
            directory = create_run(self.run_dir, self.config)
            with sole_writer(directory):
                carry_out(self.config, directory, [collected])
        ended = collected.ended
        assert ended is not None, "the engine's last event is RunEnded"
        collapse = ended.collapse or {}
        return ExperimentResult(
            initial_format=ended.formats[0][1],
            format_timeline=tuple((step, name) for step, name in ended.formats),
            outcome=ended.outcome,
            collapse_class=collapse.get("class"),
            collapse_step=collapse.get("step"),
            collapse_reason=ended.reason if ended.collapse else None,
            losses=tuple(collected.losses),
            validation_losses=tuple(collected.validation),
            snapshots=tuple(collected.snapshots),
            run_dir=self.run_dir,
        )


def run_format_experiment(config_path: str | Path, device: str = "auto") -> ExperimentResult:
    """Run what a config (a file, or the name of a shipped one) describes, in ``runs/<name>``."""
    config = load_config(str(config_path), [f"runtime.device={device}"])
    folder = unused_path(RUNS, safe_name(Path(config_path).stem))
    return FormatExperimentRunner(config, run_dir=folder).run()


class _Collected:
    """A listener that keeps what a result is made of."""

    def __init__(self) -> None:
        self.layers: Sequence[str] = ()
        self.losses: list[float | None] = []
        self.validation: list[tuple[int, Number]] = []
        self.snapshots: deque[DiagnosticSnapshot] = deque(maxlen=LAST_SNAPSHOTS)
        self.ended: RunEnded | None = None

    def receive(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.layers = event.layers
        elif isinstance(event, StepCompleted):
            self.losses.append(event.metrics.get("loss"))
            if event.histograms:
                self.snapshots.append(_snapshot(event, self.layers))
        elif isinstance(event, Evaluated):
            self.validation.append((event.step, event.validation_loss))
        elif isinstance(event, RunEnded):
            self.ended = event

    def close(self) -> None:
        pass


def _snapshot(event: StepCompleted, layers: Sequence[str]) -> DiagnosticSnapshot:
    def by_layer(values: Sequence[T]) -> dict[str, T]:
        return dict(zip(layers, values, strict=False))

    return DiagnosticSnapshot(
        step=event.step,
        format=event.format,
        metrics=dict(event.metrics),
        layers={name: by_layer(values) for name, values in event.layers.items()},
        histograms={role: by_layer(rows) for role, rows in event.histograms.items()},
    )
