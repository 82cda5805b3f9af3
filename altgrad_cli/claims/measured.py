"""Claims measured as the runs that they read come in, each with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from altgrad_cli.claims.bench import Bench
from altgrad_cli.claims.claim import Claim
from altgrad_cli.claims.judgement import Judgement, Measurement, judge
from altgrad_cli.claims.making import Made, wanted_runs


@dataclass(frozen=True, slots=True)
class MeasuredClaim:
    """A claim, what was measured of it, and what that comes to."""

    claim: Claim
    measurement: Measurement
    judgement: Judgement

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
        }


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A claim of which a run is missing that it reads."""

    claim: Claim
    why: str


def measure_claims(
    claims: Sequence[Claim], made: Iterable[Made], seeds: Sequence[int]
) -> Iterator[MeasuredClaim | Unmeasured]:
    """Each of ``claims`` as soon as the last run that it reads has come in ``made``; it is judged once."""
    bench = Bench(seeds)
    missing = {claim.name: set(wanted_runs([claim], seeds)) for claim in claims}
    yield from (_measured(claim, bench) for claim in claims if not missing[claim.name])
    for key, run in made:
        readers = [claim for claim in claims if key in missing[claim.name]]
        if isinstance(run, str):
            for claim in readers:
                missing[claim.name].clear()
                yield Unmeasured(claim, run)
            continue
        bench.runs[key] = run
        for claim in readers:
            missing[claim.name].remove(key)
            if not missing[claim.name]:
                yield _measured(claim, bench)


def _measured(claim: Claim, bench: Bench) -> MeasuredClaim:
    measurement = claim.measure(bench)
    return MeasuredClaim(claim, measurement, judge(claim.conditions, measurement))
