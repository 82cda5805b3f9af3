"""A published claim: its sentence, its source, its conditions, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from altgrad_cli.claims.bench import Bench, Overrides
from altgrad_cli.claims.judgement import Condition, Measurement


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the field that a laptop can test."""

    name: str
    sentence: str
    """What is claimed, in our words."""
    source: str
    """Who claims it, and where."""
    here: str
    """What stands for it here, and in what that differs from the source."""
    conditions: tuple[Condition, ...]
    measure: Callable[[Bench], Measurement]
    """A sample a condition, in their order."""
    arms: tuple[Overrides, ...] = ()
    """Whose runs, one a seed, measuring reads; none where nothing is trained."""

    @property
    def trains(self) -> bool:
        """Whether it takes runs; else it is measured in a moment."""
        return bool(self.arms)
