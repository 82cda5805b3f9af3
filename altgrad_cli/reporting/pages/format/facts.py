"""Everything `inspect-format` says about a format; the JSON document is these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, parse_format
from altgrad_cli.formats.accuracy import (
    Binade,
    GaussianAccuracy,
    RelativeError,
    binades,
    dynamic_range_log2,
    gaussian_accuracy,
    relative_error,
)
from altgrad_cli.formats.analysis import HalfGaps, StallPrediction, half_gaps, predicted_stall
from altgrad_cli.formats.block_accuracy import BlockFacts, block_facts
from altgrad_cli.formats.equivalence import Equivalent, find_equivalents
from altgrad_cli.formats.names import DIALECTS, LIBRARY_NAMES
from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK

EXAMPLE_WEIGHTS = (1.0, 0.1, 0.02)


@dataclass(frozen=True, kw_only=True, slots=True)
class StallQuestion:
    """For which training the stall is predicted."""

    learning_rate: float = 6e-4
    std: float = 0.02  # of the weights
    beta1: float = 0.9
    scale: float | None = None  # of the stored weights; None: as training would choose it


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """What is worked out of a format; what it states by itself stands in ``format``."""

    format: FP8Format
    octaves: float
    """log2 of the maximum over the smallest positive value."""
    binades: tuple[Binade, ...]
    error: RelativeError
    accuracy: GaussianAccuracy
    stall: StallPrediction
    half_gaps: Mapping[tuple[float, float], HalfGaps]
    """By (weight, scale), in the weight's own units; ``up`` is inf at the maximum."""
    ties: tuple[tuple[float, float], ...]
    """Midpoints, and what they are rounded to."""
    equivalents: tuple[Equivalent, ...]
    namesakes: tuple[FP8Format, ...]
    """The other grids that the field calls by the same ExMy."""
    blocks: BlockFacts | None
    """None for one scale a tensor."""

    @property
    def bias(self) -> int | None:
        """None for fixed point, which has none."""
        return _bias(self.format)

    @property
    def special_overflow(self) -> str | None:
        """What too large a value becomes with ``overflow: ieee``; None where that is refused."""
        return "inf" if self.format.has_inf else "nan" if self.format.has_nan else None

    @property
    def clip_threshold(self) -> float:
        """Of the range clipping, at base_clip 1."""
        return self.format.max_representable_value / FORMAT_REGISTRY["E5M2"].max_representable_value

    @property
    def stored_half_gaps(self) -> dict[float, HalfGaps]:
        """By weight, at the scale of the stored weights."""
        return {weight: gaps for (weight, scale), gaps in self.half_gaps.items() if scale == self.stall.scale}

    def to_json(self) -> dict[str, object]:
        """Key by key as in the JSON document; infinities are floats, values() is last."""
        format, stall = self.format, self.stall
        return {
            "name": format.name,
            "description": format.describe(),
            "exponent_bits": format.exponent_bits,
            "mantissa_bits": format.mantissa_bits,
            "width": format.width,
            "bias": self.bias,
            "dialect": format.dialect,
            "also_known_as": list(LIBRARY_NAMES.get(format.name, ())),
            "has_inf": format.has_inf,
            "has_nan": format.has_nan,
            "negative_zero": format.negative_zero,
            "max": format.max_representable_value,
            "min_normal": format.min_normal,
            "min_subnormal": format.min_subnormal,
            "smallest_positive": format.smallest_positive,
            "octaves": self.octaves,
            "decades": self.octaves * math.log10(2),
            "uniform": format.is_uniform,
            "binades": [
                {
                    "exponent": row.exponent,
                    "values": row.value_count,
                    "gap": row.gap,
                    "relative_gap": row.relative_gap,
                    "normal": row.is_normal,
                }
                for row in self.binades
            ],
            "relative_error": {
                "worst": self.error.worst,
                "mean": self.error.mean,
                "from": self.error.low,
                "to": self.error.high,
            },
            "gaussian_sqnr_db": self.accuracy.sqnr_db,
            "gaussian_best_scale": self.accuracy.scale,
            "half_gaps": [
                {"weight": weight, "scale": scale, **asdict(gaps)}
                for (weight, scale), gaps in self.half_gaps.items()
            ],
            "predicted_stall": stall.long_run,
            "predicted_stall_first_step": stall.first_step,
            "predicted_stall_for": {
                key: getattr(stall, key)
                for key in ("learning_rate", "std", "beta1", "scale", "stored_as_zero")
            },
            "ties": [{"x": x, "rounded": rounded} for x, rounded in self.ties],
            "overflow_from": format.overflow_threshold,
            "overflow_ieee": self.special_overflow,
            "equivalent_to": [
                {"format": found.format.name, "factor": found.factor, "same_specials": found.same_specials}
                for found in self.equivalents
            ],
            "same_name": [
                {
                    "name": other.name,
                    "description": other.describe(),
                    "bias": _bias(other),
                    "dialect": other.dialect,
                    "max": other.max_representable_value,
                }
                for other in self.namesakes
            ],
            "clip_threshold": self.clip_threshold,
            "fallback": FORMAT_FALLBACK.get(format.name),
            "in_study": format.name in FORMAT_FALLBACK,
            "blocks": None if self.blocks is None else asdict(self.blocks),
            "values": list(format.values()),
        }


def format_facts(format: FP8Format, question: StallQuestion) -> FormatFacts:
    """The facts of ``format``; the stall and the half gaps are those that ``question`` is about."""
    stall = predicted_stall(
        format, question.learning_rate, question.std, beta1=question.beta1, scale=question.scale
    )
    return FormatFacts(
        format=format,
        octaves=dynamic_range_log2(format),
        binades=binades(format),
        error=relative_error(format),
        accuracy=gaussian_accuracy(format),
        stall=stall,
        half_gaps={
            (weight, scale): half_gaps(format, weight, scale)
            for scale in dict.fromkeys((1.0, stall.scale))
            for weight in EXAMPLE_WEIGHTS
        },
        ties=tuple((x, format.to_real(format.to_bits(x))) for x in _example_ties(format)),
        equivalents=tuple(find_equivalents(format)),
        namesakes=namesakes(format),
        blocks=block_facts(format),
    )


def _bias(format: FP8Format) -> int | None:
    return None if format.is_fixed_point else format.bias


def namesakes(format: FP8Format) -> tuple[FP8Format, ...]:
    """The other grids that the field calls by the same ExMy, one for each dialect and customary bias."""
    base = f"E{format.exponent_bits}M{format.mantissa_bits}"
    spellings = [base, *(f"{base}:{dialect}" for dialect in DIALECTS)]
    if not format.is_fixed_point:
        spellings.append(f"{base}:finite:bias={(1 << (format.exponent_bits - 1)) - 1}")
    found = {}
    for spelling in spellings:
        other = _parse_or_none(spelling)
        if other is not None and other.name != format.name:
            found[other.name] = other
    found |= {
        other.name: other
        for other in FORMAT_REGISTRY.values()
        if (other.exponent_bits, other.mantissa_bits) == (format.exponent_bits, format.mantissa_bits)
        and other.name != format.name
    }
    return tuple(sorted(found.values(), key=lambda other: -other.max_representable_value))


def _parse_or_none(spelling: str) -> FP8Format | None:
    try:
        return parse_format(spelling)
    except FormatError:  # a dialect that this split of bits has no room for
        return None


def _example_ties(format: FP8Format) -> list[float]:
    """Midpoints that show where ties go: those around 1, or the last ones of a grid that ends before."""
    magnitudes = format.magnitudes
    first = max(0, min(format.to_bits(1.0) - 1, len(magnitudes) - 4))
    return [(low + high) / 2 for low, high in pairwise(magnitudes[first : first + 4])]
