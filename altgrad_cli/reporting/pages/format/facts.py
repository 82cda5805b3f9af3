"""Everything `inspect-format` says about a format, as plain values; the JSON document is these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from altgrad_cli.errors import FormatError
from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, parse_format
from altgrad_cli.formats.accuracy import binades, dynamic_range_log2, gaussian_accuracy, relative_error
from altgrad_cli.formats.analysis import half_gaps, predicted_stall
from altgrad_cli.formats.equivalence import find_equivalents
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


def describe_format(format: FP8Format, question: StallQuestion) -> dict[str, Any]:
    """The facts of ``format``, key by key as in the JSON document; infinities are floats, values() is last.

    ``bias`` is None for fixed point, which has none. ``predicted_stall`` is the long-run share; half gaps
    are in the weight's own units, and ``up`` is inf at the maximum.
    """
    accuracy, error = gaussian_accuracy(format), relative_error(format)
    stall = predicted_stall(
        format, question.learning_rate, question.std, beta1=question.beta1, scale=question.scale
    )
    octaves = dynamic_range_log2(format)
    return {
        "name": format.name,
        "description": format.describe(),
        "exponent_bits": format.exponent_bits,
        "mantissa_bits": format.mantissa_bits,
        "width": format.width,
        "bias": None if format.is_fixed_point else format.bias,
        "dialect": format.dialect,
        "also_known_as": list(LIBRARY_NAMES.get(format.name, ())),
        "has_inf": format.has_inf,
        "has_nan": format.has_nan,
        "negative_zero": format.negative_zero,
        "max": format.max_representable_value,
        "min_normal": format.min_normal,
        "min_subnormal": format.min_subnormal,
        "smallest_positive": format.smallest_positive,
        "octaves": octaves,
        "decades": octaves * math.log10(2),
        "uniform": format.is_uniform,
        "binades": [
            {
                "exponent": row.exponent,
                "values": row.value_count,
                "gap": row.gap,
                "relative_gap": row.relative_gap,
                "normal": row.is_normal,
            }
            for row in binades(format)
        ],
        "relative_error": {"worst": error.worst, "mean": error.mean, "from": error.low, "to": error.high},
        "gaussian_sqnr_db": accuracy.sqnr_db,
        "gaussian_best_scale": accuracy.scale,
        "half_gaps": [
            _half_gaps(format, weight, scale)
            for scale in dict.fromkeys((1.0, stall.scale))
            for weight in EXAMPLE_WEIGHTS
        ],
        "predicted_stall": stall.long_run,
        "predicted_stall_first_step": stall.first_step,
        "predicted_stall_for": {
            "learning_rate": stall.learning_rate,
            "std": stall.std,
            "beta1": stall.beta1,
            "scale": stall.scale,
            "stored_as_zero": stall.stored_as_zero,
        },
        "ties": [{"x": x, "rounded": format.to_real(format.to_bits(x))} for x in _example_ties(format)],
        "overflow_from": format.overflow_threshold,
        "overflow_ieee": "inf" if format.has_inf else "nan" if format.has_nan else None,
        "equivalent_to": [
            {"format": found.format.name, "factor": found.factor, "same_specials": found.same_specials}
            for found in find_equivalents(format)
        ],
        "same_name": [
            {
                "name": other.name,
                "description": other.describe(),
                "bias": None if other.is_fixed_point else other.bias,
                "dialect": other.dialect,
                "max": other.max_representable_value,
            }
            for other in namesakes(format)
        ],
        "clip_threshold": format.max_representable_value / FORMAT_REGISTRY["E5M2"].max_representable_value,
        "fallback": FORMAT_FALLBACK.get(format.name),
        "in_study": format.name in FORMAT_FALLBACK,
        "values": list(format.values()),
    }


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


def _half_gaps(format: FP8Format, weight: float, scale: float) -> dict[str, float]:
    gaps = half_gaps(format, weight, scale)
    return {"weight": weight, "scale": scale, "stored": gaps.stored, "up": gaps.up, "down": gaps.down}


def _example_ties(format: FP8Format) -> list[float]:
    """Midpoints that show where ties go: those around 1, or the last ones of a grid that ends before."""
    magnitudes = format.magnitudes
    first = max(0, min(format.to_bits(1.0) - 1, len(magnitudes) - 4))
    return [(low + high) / 2 for low, high in pairwise(magnitudes[first : first + 4])]
