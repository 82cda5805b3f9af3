"""What a scale a block buys: bits a value, range inside a block and across, SQNR of inputs with outliers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from types import MappingProxyType

from altgrad_cli.formats.block_spec import E8M0, BlockSpec
from altgrad_cli.formats.reference import scale_exact
from altgrad_cli.formats.spec import FP8Format

ROWS, COLUMNS = 64, 128
"""Of the sampled inputs."""

INPUTS: Mapping[str, Callable[[random.Random], float]] = MappingProxyType(
    {
        "normal": lambda draw: draw.gauss(0, 1),
        "lognormal": lambda draw: draw.choice((-1, 1)) * draw.lognormvariate(0, 1.5),
        "outliers": lambda draw: draw.gauss(0, 1) * (100 if draw.random() < 0.002 else 1),
    }
)
"""N(0, 1); of either sign with log |x| ~ N(0, 1.5^2); N(0, 1) with one value in 500 times 100."""


@dataclass(frozen=True, slots=True)
class BlockAccuracy:
    """SQNR in dB of one of ``INPUTS``, seeded, rounded to nearest."""

    input: str
    blocks: float
    one_scale: float
    """The same element format with one power-of-two scale for all of the input."""


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """What is worked out of a format with blocks."""

    bits_a_value: float
    """Scale included, where the block has a size of its own."""
    octaves_inside: float
    """log2 of the maximum over the smallest positive value at one scale."""
    octaves_across: float | None
    """The same over all scales; None where the name does not say what these are stored in."""
    accuracy: tuple[BlockAccuracy, ...]


def block_facts(format: FP8Format) -> BlockFacts | None:
    """None for a format without blocks."""
    block = format.block
    if not block.name:
        return None
    inside = math.log2(format.max_representable_value) - format.smallest_exponent
    scale = block.scale
    # The scale of the tensor, in float32, moves the whole range along and is not counted.
    across = None if scale is None else inside + math.log2(scale.largest) - math.log2(scale.smallest)
    one = replace(format, name=f"{format.name}, one scale", block=BlockSpec(scale=E8M0, rounding="rceil"))
    named = format
    if scale is None:
        named = replace(format, block=replace(block, scale=E8M0, rounding="rceil"))
    found = []
    for name, value in INPUTS.items():
        draw = random.Random(0)
        rows = [[value(draw) for _ in range(COLUMNS)] for _ in range(ROWS)]
        found.append(BlockAccuracy(name, _sqnr(rows, named), _sqnr(rows, one)))
    return BlockFacts(
        bits_a_value=format.width + block.scale_bits_a_value,
        octaves_inside=inside,
        octaves_across=across,
        accuracy=tuple(found),
    )


def _sqnr(rows: list[list[float]], format: FP8Format) -> float:
    tall, wide = format.block.rows or ROWS, format.block.columns or COLUMNS
    largest = Fraction(max(abs(x) for row in rows for x in row))
    noise = power = 0.0
    for top, left in product(range(0, ROWS, tall), range(0, COLUMNS, wide)):
        values = [x for row in rows[top : top + tall] for x in row[left : left + wide]]
        scale = float(scale_exact(Fraction(max(map(abs, values))), format, largest))
        for x in values:
            noise += (x - scale * format.to_real(format.to_bits(x / scale))) ** 2
            power += x * x
    return 10 * math.log10(power / noise) if noise else math.inf
