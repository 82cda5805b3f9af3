"""What of a difference between two arms is noise: the paired Student-t interval over their seeds and texts.

Runs of one seed share start and batches, so arms are compared in pairs: [0.01, 0.05, 0.20] is 0.087 +- 0.249,
which holds 0, though every pair has the same sign.

Pairs are made within a text, and the seeds of one text say nothing of another. So there are two questions.
What holds *on every one of these texts* is asked text by text, each with the interval over its own seeds; as
all have to agree, no correction for their number is due (an intersection-union test: Berger 1982), and the
weakest text decides. What holds *of texts like these* has the texts for its sample: the interval over their
means (``nested_interval``), which for two texts has one degree of freedom and is wide, as it should be.
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


def nested_interval(by_text: Sequence[Sequence[float]]) -> Interval | None:
    """The interval of differences by text, one a seed in each; texts without any are passed over.

    Of one text it is that over its seeds. Of several it is that over the means of the texts, all weighed
    alike: the spread of these holds that of the seeds too (the exact interval of a balanced nested design).
    """
    groups = [differences for differences in by_text if differences]
    return paired_interval(groups[0] if len(groups) == 1 else [fmean(group) for group in groups])


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t for a whole ``freedom`` from 1 on (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    both = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + both) / 2


def chance_above(differences: Sequence[float]) -> float | None:
    """The chance that the true mean of ``differences`` lies above 0, from the t distribution of its interval.

    It is the posterior of a mean of which nothing was known before (flat prior), and the one-sided p-value. A
    count of signs cannot fall below 1/8 for three seeds, so it would not tell a gap of a nat from one of a
    thousandth. None for fewer than two, or where one is not finite; 1/2 where all are 0.
    """
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return None
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    if error == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return student_cdf(mean / error, len(differences) - 1)
