"""What of a difference between two arms is noise: the paired Student-t interval over their seeds.

Runs of one seed share start and batches, so arms are compared in pairs: [0.01, 0.05, 0.20] is 0.087 +- 0.249,
which holds 0, though every pair has the same sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Two-sided 95 % points of Student's t by degrees of freedom; 2.0 beyond."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference and the half width of its 95 % interval."""

    mean: float
    half_width: float | None
    """None for fewer than two pairs, or where a difference is not finite."""

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval holds 0, so that the seeds alone may make the difference; None if unknown."""
        return None if self.half_width is None else abs(self.mean) <= self.half_width

    @property
    def words(self) -> str:
        """``inside the noise``, ``outside the noise``, or that it is not known."""
        words = {True: "inside the noise", False: "outside the noise", None: "the noise is not known"}
        return words[self.within_noise]


def paired_interval(differences: Sequence[float]) -> Interval | None:
    """The mean of ``differences``, one a seed, with its interval; None where there are none."""
    if not differences:
        return None
    count = len(differences)
    half_width = None
    if count > 1 and all(map(math.isfinite, differences)):
        half_width = T_95.get(count - 1, 2.0) * stdev(differences) / math.sqrt(count)
    return Interval(fmean(differences), half_width)
