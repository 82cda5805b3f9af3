"""Claims measured one after another, each with its verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from altgrad_cli.claims.bench import Bench
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.judgement import Judgement, Measurement, judge


@dataclass(frozen=True, slots=True)
class MeasuredClaim:
    """A claim, what was measured of it, and what that comes to."""

    claim: Claim
    measurement: Measurement
    judgement: Judgement
    seconds: float
    """Processor time that measuring took, with the runs that no earlier claim had made."""

    def to_json(self) -> dict[str, object]:
        """Plain values, every condition with all that was measured of it."""
        conditions = [
            {
                **asdict(each.condition),
                "holds": each.holds,
                "values": list(each.sample.values),
                "mean": each.sample.interval.mean,
                "half_width": each.sample.interval.half_width,
            }
            for each in self.judgement.checked
        ]
        return {
            "name": self.claim.name,
            "claim": self.claim.sentence,
            "source": self.claim.source,
            "here": self.claim.here,
            "verdict": self.judgement.verdict,
            "scope": self.measurement.scope,
            "seeds": list(self.measurement.seeds),
            "texts": list(self.measurement.texts),
            "rates": list(self.measurement.rates),
            "conditions": conditions,
            "losses": {name: list(values) for name, values in self.measurement.losses.items()},
            "seconds": round(self.seconds, 1),
        }


def measure_claims(claims: Sequence[Claim], bench: Bench) -> Iterator[MeasuredClaim]:
    """Each of ``claims`` as soon as it is measured; runs of earlier ones are not made again."""
    for claim in claims:
        started = time.process_time()
        measurement = claim.measure(bench)
        judgement = judge(claim.conditions, measurement)
        yield MeasuredClaim(claim, measurement, judgement, time.process_time() - started)
