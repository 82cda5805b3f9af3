"""Rounding onto a grid, slowly and obviously right: exact fractions and a search among the values.

This is the oracle that the fast paths (``FP8Format.to_bits``, ``quantization.quantize``) are tested
against. It shares no arithmetic with them: nothing is scaled, no exponent is computed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import Literal, get_args

from altgrad_cli.errors import FormatError, check_choice
from altgrad_cli.formats.block_spec import SCALE_FORMATS, floor_log2
from altgrad_cli.formats.spec import FP8Format

Overflow = Literal["saturate", "ieee"]

# Whether a value at this place in [0, 1) between two neighbours goes to the outer one, given the code
# of the inner one.
_Decision = Callable[[Fraction, int], bool]


def round_exact(x: float, format: FP8Format, *, overflow: Overflow = "saturate") -> float:
    """``x`` rounded to the nearest value of ``format``, ties to the even code.

    ``overflow="saturate"`` clamps to the maximum, inf included; ``"ieee"`` gives inf, or nan where the
    format has no inf. nan stays nan in every format: it lives in the carrier. The sign of zero survives,
    underflow included; a format without -0 gives +0.

    Raises ``FormatError`` for ``"ieee"`` with a format that has neither inf nor nan.
    """
    half = Fraction(1, 2)
    return _round(x, format, overflow, lambda place, code: place > half or (place == half and code % 2 == 1))


def round_stochastic_exact(
    x: float, format: FP8Format, *, random_bits: int, bit_count: int, overflow: Overflow = "saturate"
) -> float:
    """``x`` rounded to one of its two neighbours, decided by ``random_bits`` in [0, 2^bit_count).

    As gfloat's ``RoundMode.StochasticFast``: the place between the neighbours is rounded to ``bit_count``
    bits (ties up) and x goes away from zero where place + random_bits reaches 2^bit_count. A value
    of the grid never moves. Specials, overflow and errors as in ``round_exact``; also raises
    ``FormatError`` for bits out of range.
    """
    one = 1 << bit_count
    if not 0 <= random_bits < one:
        raise FormatError(f"{random_bits} does not fit in {bit_count} random bits", allowed=f"0 to {one - 1}")
    return _round(x, format, overflow, lambda place, code: 2 * (place * one + random_bits) + 1 >= 2 * one)


def _round(x: float, format: FP8Format, overflow: Overflow, goes_out: _Decision) -> float:
    check_choice("overflow", overflow, get_args(Overflow))
    if overflow == "ieee" and not format.has_specials:
        raise FormatError(
            f"overflow 'ieee' needs a format with inf or nan; {format.name} has neither",
            where=format.describe(),
            allowed="overflow 'saturate'",
        )
    if math.isnan(x):
        return math.nan
    grid = _grid(format)
    code = format.max_code + 1 if math.isinf(x) else _neighbour_code(abs(Fraction(x)), grid, goes_out)
    if code <= format.max_code:
        magnitude = float(grid[code])
    elif overflow == "saturate":
        magnitude = float(grid[format.max_code])
    else:
        magnitude = math.inf if format.has_inf else math.nan
    if magnitude == 0 and not format.negative_zero:
        return 0.0
    return math.copysign(magnitude, x)


@lru_cache(maxsize=32)
def _grid(format: FP8Format) -> tuple[Fraction, ...]:
    """The magnitudes in code order, and one more: where the grid would go on beyond its maximum."""
    inside = [format.to_fraction(code) for code in range(format.max_code + 1)]
    step = Fraction(format.gap(format.max_representable_value))
    return (*inside, inside[-1] + step)


def _neighbour_code(magnitude: Fraction, grid: tuple[Fraction, ...], goes_out: _Decision) -> int:
    if magnitude >= grid[-1]:
        return len(grid) - 1
    inner = bisect_right(grid, magnitude) - 1
    place = (magnitude - grid[inner]) / (grid[inner + 1] - grid[inner])
    return inner + goes_out(place, inner)


def round_blocks_exact(
    rows: Sequence[Sequence[float]], format: FP8Format
) -> tuple[list[list[float]], list[list[float]]]:
    """``rows`` rounded to nearest in the blocks of ``format``, and the scale of each value.

    The rows lie along the dimension that a product reduces over, and blocks at the ends are as large as they
    come out. Saturating; a scale follows from the finite values of its block, where nan stays nan alone.
    Quotients of scales, x / s and its rounding times s are rounded to float32, as they are by everybody.

    Raises:
        FormatError: the format's name does not say what its scales are stored in.
    """
    block = format.block
    height, width = len(rows), len(rows[0])
    tall, wide = block.rows or height, block.columns or width
    tensor = _largest(x for row in rows for x in row)
    rounded, scales = [[math.nan] * width for _ in rows], [[math.nan] * width for _ in rows]
    for top, left in product(range(0, height, tall), range(0, width, wide)):
        places = list(product(range(top, min(top + tall, height)), range(left, min(left + wide, width))))
        scale = scale_exact(_largest(rows[i][j] for i, j in places), format, tensor)
        for i, j in places:
            x = rows[i][j]
            quotient = x if not math.isfinite(x) else _float32(Fraction(x) / scale, x)
            grid = round_exact(quotient, format)
            rounded[i][j] = grid if math.isnan(grid) else _float32(Fraction(grid) * scale, grid)
            scales[i][j] = float(scale)
    return rounded, scales


def scale_exact(amax: Fraction, format: FP8Format, tensor_amax: Fraction) -> Fraction:
    """The scale of a block with this largest magnitude in a tensor with that one, as the format's name says.

    A block of zeros has the smallest scale there is; in a tensor of zeros the tensor's own is 1.
    """
    block, maximum = format.block, Fraction(format.max_representable_value)
    if block.scale is None:
        raise FormatError(
            f"the name {format.name} does not say what its scales are stored in",
            allowed=f"a scale format ({', '.join(SCALE_FORMATS)})",
        )
    if block.rounding is not None:
        if amax == 0:
            return Fraction(block.scale.smallest)
        half_gap = Fraction(format.gap(float(maximum))) / 2 / Fraction(2) ** floor_log2(maximum)
        power = {
            "floor": floor_log2(amax) - floor_log2(maximum),
            "ceil": -floor_log2(1 / amax) - floor_log2(maximum),
            "rceil": -floor_log2(maximum / amax),
            "even": floor_log2(amax + half_gap * Fraction(2) ** floor_log2(amax)) - floor_log2(maximum),
        }[block.rounding]
        return block.scale.nearest(Fraction(2) ** power)
    if not block.two_levels:
        return block.scale.nearest(_float32_fraction(amax / maximum))
    float32 = SCALE_FORMATS["float32"]
    over = (
        float32.nearest(tensor_amax / (maximum * Fraction(block.scale.largest)))
        if tensor_amax
        else Fraction(1)
    )
    return _float32_fraction(
        over * block.scale.nearest(_float32_fraction(_float32_fraction(amax / maximum) / over))
    )


def _largest(values: Iterable[float]) -> Fraction:
    return max((abs(Fraction(x)) for x in values if math.isfinite(x)), default=Fraction(0))


def _float32_fraction(value: Fraction) -> Fraction:
    """``value`` >= 0 rounded to float32's grid, subnormals and what lies beyond its maximum included."""
    if value == 0:
        return value
    step = Fraction(2) ** max(floor_log2(value) - 23, -149)
    return round(value / step) * step


def _float32(value: Fraction, sign: float) -> float:
    magnitude = _float32_fraction(abs(value))
    return math.copysign(float(magnitude) if magnitude < Fraction(2) ** 128 else math.inf, sign)
