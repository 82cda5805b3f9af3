"""Whether the validation loss still improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLATEAU_EVALUATIONS = 5
"""Evaluations in a row without a better validation loss that end a run with ``stop: plateau``."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation meant for the run."""

    is_best: bool
    """The lowest validation loss so far; one that is not finite never is."""
    stale: bool
    """The loss has stopped improving."""


class ValidationLoss:
    """The lowest validation loss of a run, and for how long it has been so."""

    def __init__(self) -> None:
        self.best: float | None = None
        self.evaluations_without_gain = 0

    def update(self, loss: float) -> Evaluation:
        """Take in the loss of one evaluation, nats per token or label."""
        better = math.isfinite(loss) and (self.best is None or loss < self.best)
        if better:
            self.best = loss
        self.evaluations_without_gain = 0 if better else self.evaluations_without_gain + 1
        return Evaluation(better, self.evaluations_without_gain >= PLATEAU_EVALUATIONS)

    def state_dict(self) -> dict[str, Any]:
        return {"best_validation": self.best, "evaluations_without_gain": self.evaluations_without_gain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best_validation"]
        self.evaluations_without_gain = state["evaluations_without_gain"]
