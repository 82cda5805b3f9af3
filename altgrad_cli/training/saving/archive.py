"""What a run leaves on disk as checkpoints, seen from the engine: save, capture, resume.

A disk that is full or a folder that may not be written costs a checkpoint and one event that says so, never
the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from altgrad_cli.checkpoints import retention
from altgrad_cli.checkpoints.file import VerifiedCheckpoint, plain_copy, write_checkpoint
from altgrad_cli.checkpoints.payload import TraceRecord, to_plain
from altgrad_cli.errors import CheckpointError, WriteError
from altgrad_cli.training.events import CheckpointSaved
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.origin import find_first
from altgrad_cli.training.saving.snapshot import (
    batch_to_plain,
    named_gradient,
    next_batch,
    restore_snapshot,
    take_snapshot,
)
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.step import Step
from altgrad_cli.training.tracing import trace_step
from altgrad_cli.training.watch.monitors import Monitors


@dataclass(frozen=True, slots=True)
class PendingStep:
    """What is known of the step under way, before its update."""

    step: Step
    streams_before: dict[str, Tensor]
    trace: tuple[TraceRecord, ...] = ()
    """The step tensor by tensor; made for one that was not finite."""

    def traced(self, state: TrainState, faults: Faults) -> PendingStep:
        """The same with its trace, where one can be made: a capture that fails costs no evidence."""
        try:
            return replace(self, trace=trace_step(state, self.step.batch, faults=faults).records)
        except Exception:  # noqa: BLE001  the anomaly checkpoint tries again, and says why there is none
            return self

    def origin(self, state: TrainState) -> str:
        """In words, what was not finite first: as the diagnosis says it."""
        first = find_first(self.trace)
        return f"{self.step.first_nonfinite(state)} not finite" if first is None else first.words


@dataclass(frozen=True, slots=True)
class AnomalyCapture:
    """What an anomaly checkpoint holds beside the state of the run before the step, a method a section."""

    state: TrainState
    watched: Monitors
    pending: PendingStep
    faults: Faults

    def batch(self) -> object:
        """The step's own."""
        return batch_to_plain(self.pending.step.batch)

    def gradient(self) -> object:
        """Of every parameter, as the step met it."""
        return named_gradient(self.state, self.pending.step.result.gradient)

    def trace(self) -> object:
        """The step tensor by tensor, run once more where that has not been done."""
        again = partial(trace_step, self.state, self.pending.step.batch, faults=self.faults)
        return to_plain(self.pending.trace or again().records)

    def history(self) -> object:
        """The scalars of the last steps."""
        return list(self.watched.history)

    def monitors(self) -> object:
        """What the monitors remember."""
        return self.watched.state_dict()

    def sections(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Every section by name, and why others are missing: one that fails costs no other evidence."""
        present: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for section in (self.batch, self.gradient, self.trace, self.history, self.monitors):
            name = section.__name__
            try:
                present[name] = plain_copy(section(), name)
            except Exception as error:  # noqa: BLE001  whatever a capture does, the rest is written
                missing[name] = f"{type(error).__name__}: {error}"
        return present, missing


@dataclass(frozen=True, slots=True)
class Archive:
    """The checkpoints of one run, and what all of them state beside the run's own state."""

    run_dir: Path
    faults: Faults
    metadata: Mapping[str, Any]
    """Paths, the W&B id: kept in the file, and no part of its content hash."""

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.run_dir / "checkpoints"

    def save_regular(self, state: TrainState, monitors: Monitors) -> CheckpointSaved:
        """Write the checkpoint of this step and let go of all but the last two."""

        def write() -> Path:
            path = retention.regular_path(self.folder, state.step)
            # The next batch comes along: a healthy checkpoint can then be examined without the corpus.
            batch = batch_to_plain(next_batch(state))
            self._write(path, state, monitors, "regular", history=list(monitors.history), batch=batch)
            retention.discard_old(self.folder)
            return path

        return self._saved(state.step, "regular", write)

    def save_best(self, state: TrainState, monitors: Monitors) -> CheckpointSaved:
        """Write the checkpoint with the lowest validation loss so far."""

        def write() -> Path:
            path = retention.best_path(self.folder)
            self._write(path, state, monitors, "best")
            return path

        return self._saved(state.step, "best", write)

    def save_anomaly(
        self, state: TrainState, monitors: Monitors, pending: PendingStep, trigger: str
    ) -> CheckpointSaved:
        """Write the state before the step, its batch and gradient, a traced second run and the last steps."""
        step = pending.step
        summary = step.summary
        nonfinite = [
            {"layer": state.layer_names[layer], "role": role, "count": count}
            for (layer, role), count in summary.nonfinite.items()
        ]
        failure = {
            "class": trigger,
            "step": step.number,
            "trigger": pending.origin(state) if trigger == "nonfinite" else trigger,
            "loss": summary.loss,
            "gradient_linf": summary.gradient_linf,
            "nonfinite_inputs": nonfinite,
            "format": state.format,
            "stall_collapsed_at": monitors.stall_collapse.onset,
            "stall_detected_at": monitors.stall_collapse.detected,
        }
        present, missing = AnomalyCapture(state, monitors, pending, self.faults).sections()

        def write() -> Path:
            path = retention.anomaly_path(self.folder, step.number)
            payload = take_snapshot(
                state,
                present.pop("monitors", {}),
                streams_before=pending.streams_before,
                kind="anomaly",
                metadata=self.metadata,
                **self._stated(state),
                failure=failure,
                missing=missing,
                **present,
            )
            write_checkpoint(path, payload)
            return path

        return self._saved(step.number, trigger, write)

    def _stated(self, state: TrainState) -> dict[str, Any]:
        corpus, faults = state.subject.corpus, self.faults
        return {
            "corpus": {}
            if corpus is None
            else {
                "fingerprint": corpus.fingerprint,
                "source": corpus.source,
                "tokenizer": corpus.tokenizer,
            },
            "injections": {
                "planned": [injection.text for injection in faults.injections],
                "struck": faults.struck,
            },
        }

    def _write(self, path: Path, state: TrainState, monitors: Monitors, kind: str, **extras: Any) -> None:
        payload = take_snapshot(
            state,
            monitors.state_dict(),
            kind=kind,
            metadata=self.metadata,
            **self._stated(state),
            **extras,
        )
        write_checkpoint(path, payload)

    def _saved(self, step: int, reason: str, write: Callable[[], Path]) -> CheckpointSaved:
        try:
            path = write().relative_to(self.run_dir)
            return CheckpointSaved(step=step, path=path.as_posix(), reason=reason)
        except (OSError, WriteError, CheckpointError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            return CheckpointSaved(step=step, path=None, reason=reason, problem=problem)


def restore(state: TrainState, saved: VerifiedCheckpoint) -> Mapping[str, Any]:
    """Put ``state`` where the checkpoint was taken; its payload, for the monitors' part.

    Raises:
        CheckpointError: it belongs to another network or corpus.
    """
    payload, corpus = saved.take(), state.subject.corpus
    trained_on = payload.get("corpus", {}).get("fingerprint")
    if corpus is not None and trained_on is not None and trained_on != corpus.fingerprint:
        raise CheckpointError(
            "the checkpoint was trained on another corpus",
            where=str(saved.path),
            allowed=f"the corpus with fingerprint {trained_on[:16]}",
            hint="give the data.path of the original run",
        )
    restore_snapshot(state, payload)
    return payload
