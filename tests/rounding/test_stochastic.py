"""Stochastic rounding: exact for given bits, unbiased, between the neighbours, reproducible."""

from __future__ import annotations

import math

import gfloat
import numpy as np
import pytest
import torch

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format, named_formats, parse_format
from altgrad_cli.formats.reference import round_stochastic_exact
from altgrad_cli.rounding.quantize import STATS, STOCHASTIC_BITS, quantize, round_to_grid
from tests.formats.oracles import assert_same_numbers, gfloat_info, probe_inputs

SMALL = [format for format in named_formats() if format.width <= 8]


def _inputs(format: FP8Format) -> torch.Tensor:
    """The probes, and values whose place between their neighbours has many digits."""
    generator = torch.Generator().manual_seed(12)
    normal = torch.randn(300, generator=generator)
    top = min(format.max_representable_value, 1e37)
    spread = torch.exp2(torch.rand(300, generator=generator) * 20 - 10) * format.smallest_positive
    return torch.cat([torch.from_numpy(probe_inputs(format))[::3], normal * top / 2, spread, -spread])


def _bits(count: int, seed: int = 13) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 1 << STOCHASTIC_BITS, (count,), generator=generator, dtype=torch.int32)
    bits[:2] = torch.tensor([0, (1 << STOCHASTIC_BITS) - 1])
    return bits


@pytest.mark.parametrize("format", SMALL, ids=lambda format: format.name)
def test_it_is_gfloats_stochastic_mode_for_the_same_bits(format: FP8Format) -> None:
    x = _inputs(format)
    for seed in (13, 14):
        bits = _bits(x.numel(), seed)
        expected = gfloat.round_ndarray(
            gfloat_info(format),
            x.double().numpy(),
            gfloat.RoundMode.StochasticFast,
            sat=True,
            srbits=bits.long().numpy(),
            srnumbits=STOCHASTIC_BITS,
        )
        rounded = round_to_grid(x, format, 1.0, rounding="stochastic", bits=bits)
        assert_same_numbers(rounded, expected, x)


@pytest.mark.parametrize("name", ["BF16", "FP16", "E0M15", "E5M2:bias=140", "E8M7:bias=130"])
def test_wide_formats_follow_the_reference_for_the_same_bits(name: str) -> None:
    format = parse_format(name)
    x = _inputs(format)[::5]
    bits = _bits(x.numel())
    expected = [
        round_stochastic_exact(value, format, random_bits=b, bit_count=STOCHASTIC_BITS)
        for value, b in zip(x.tolist(), bits.tolist(), strict=True)
    ]
    assert_same_numbers(round_to_grid(x, format, 1.0, rounding="stochastic", bits=bits), expected, x)


@pytest.mark.parametrize("scale", [0.25, 0.3])
def test_a_scale_divides_before_and_multiplies_after(scale: float) -> None:
    format, s = parse_format("E4M3"), torch.tensor(scale)
    x = torch.randn(500, generator=torch.Generator().manual_seed(15))
    bits = _bits(x.numel())
    expected = torch.tensor(
        [
            round_stochastic_exact(y, format, random_bits=b, bit_count=STOCHASTIC_BITS)
            for y, b in zip((x / s).tolist(), bits.tolist(), strict=True)
        ]
    )
    rounded = round_to_grid(x, format, scale, rounding="stochastic", bits=bits)
    assert torch.equal(rounded, expected * s)


def test_specials_and_overflow() -> None:
    inputs = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 60000.0, 65000.0])
    all_ones = torch.full((6,), (1 << STOCHASTIC_BITS) - 1, dtype=torch.int32)
    e5m2 = parse_format("E5M2")
    saturated = round_to_grid(inputs, e5m2, 1.0, rounding="stochastic", bits=all_ones)
    assert_same_numbers(saturated, [np.nan, 57344, -57344, -0.0, 57344, 57344])
    ieee = round_to_grid(inputs, e5m2, 1.0, rounding="stochastic", overflow="ieee", bits=all_ones)
    assert_same_numbers(ieee, [np.nan, np.inf, -np.inf, -0.0, np.inf, np.inf])


@pytest.mark.parametrize("name", ["E5M2", "E3M4", "E1M6", "E0M7", "E7M0"])
def test_values_of_the_grid_never_move(name: str) -> None:
    format = parse_format(name)
    values = torch.tensor([value for value in format.values() if np.isfinite(value)])
    generator = torch.Generator().manual_seed(16)
    for _ in range(50):
        rounded = round_to_grid(values, format, 1.0, rounding="stochastic", generator=generator)
        assert_same_numbers(rounded, values)


@pytest.mark.parametrize("name", ["E5M2", "E3M4", "E1M6", "E0M7", "E7M0"])
@pytest.mark.parametrize("place", [0.001, 0.25, 0.5, 0.9])
def test_the_mean_is_the_value_and_the_result_a_neighbour(name: str, place: float) -> None:
    """Only the two neighbours appear in 200,000 draws; their mean is within three standard errors."""
    format = parse_format(name)
    low = format.to_real(format.to_bits(format.max_representable_value / 3))
    gap = format.gap(low)
    x, draws = low + place * gap, 200_000
    generator = torch.Generator().manual_seed(17)
    rounded = round_to_grid(torch.full((draws,), x), format, 1.0, rounding="stochastic", generator=generator)
    assert set(rounded.unique().tolist()) <= {low, low + gap}
    error = float((rounded.double() - float(np.float32(x))).mean()) / gap
    assert abs(error) < 3 * np.sqrt(place * (1 - place) / draws) + 2.0**-STOCHASTIC_BITS


@pytest.mark.parametrize(
    ("name", "low", "gap", "units"),
    [("E7M0", 1.0, 1.0, 154), ("E5M2", 0.0, 2.0**-16, 1), ("E0M7", -0.0, -1 / 128, (1 << 24) - 1)],
)
def test_over_all_random_bits_a_place_has_exactly_its_chance(
    name: str, low: float, gap: float, units: int
) -> None:
    """A place of n / 2^24 moves the value for n of the 2^24 random bits, down to one of them."""
    bits = torch.arange(1 << 24, dtype=torch.int32)
    x = torch.full((1 << 24,), low + gap * units * 2.0**-24)
    rounded = round_to_grid(x, parse_format(name), rounding="stochastic", bits=bits)
    assert int((rounded == low + gap).sum()) == units
    assert int((rounded == low).sum()) == (1 << 24) - units


def _moved(place: float, draws: int, seed: int) -> int:
    """In how many of ``draws`` draws a value that lies ``place`` of a gap above 0 moved."""
    format, generator = parse_format("E5M2"), torch.Generator().manual_seed(seed)
    x = torch.full((1 << 20,), place * format.smallest_positive)
    return sum(
        int((round_to_grid(x, format, rounding="stochastic", generator=generator) != 0).sum())
        for _ in range(draws >> 20)
    )


def _assert_likely(moved: int, expected: float) -> None:
    """``moved`` is no rarer than 1 in a million: the Poisson distribution is that of rare events."""
    chances = [math.exp(k * math.log(expected) - expected - math.lgamma(k + 1)) for k in range(moved + 1)]
    assert math.fsum(chances) > 1e-6
    assert 1 - math.fsum(chances[:-1]) > 1e-6


@pytest.mark.parametrize(("exponent", "draws"), [(-12, 1 << 20), (-17, 1 << 22), (-20, 1 << 24)])
def test_a_small_update_happens_as_often_as_it_should(exponent: int, draws: int) -> None:
    _assert_likely(_moved(2.0**exponent, draws, 23), draws * 2.0**exponent)


@pytest.mark.campaign
@pytest.mark.parametrize("exponent", [-20, -22, -24])
def test_an_update_of_a_16_millionth_of_a_gap_happens(exponent: int) -> None:
    draws = 1 << 30
    _assert_likely(_moved(2.0**exponent, draws, 24), draws * 2.0**exponent)


def test_neighbouring_values_do_not_share_their_bits() -> None:
    """Independent draws: no correlation between neighbours, between halves, or between calls."""
    generator = torch.Generator().manual_seed(18)
    half = torch.full((1 << 17,), 0.5 + 1 / 64)  # half a gap of E3M4 at bias 3 above 0.5
    format = parse_format("E3M4:bias=3:finite")
    draws = [
        round_to_grid(half, format, 1.0, rounding="stochastic", generator=generator) > 0.5 for _ in range(2)
    ]
    first, second = (draw.double() - 0.5 for draw in draws)
    count = first.numel()
    pairs = {
        "calls": first * second,
        "neighbours": first[1:] * first[:-1],
        "every second": first[2:] * first[:-2],
        "every fourth": first[4:] * first[:-4],
        "halves": first[: count // 2] * first[count // 2 :],
    }
    for what, product in pairs.items():
        assert abs(float(product.mean())) < 4 * 0.25 / np.sqrt(product.numel()), what


def test_a_saved_generator_gives_the_same_rounding_again() -> None:
    format = parse_format("E4M3")
    x = torch.randn(3000, generator=torch.Generator().manual_seed(19))
    generator = torch.Generator().manual_seed(20)
    state = generator.get_state()
    first = round_to_grid(x, format, 0.01, rounding="stochastic", generator=generator)
    second = round_to_grid(x, format, 0.01, rounding="stochastic", generator=generator)
    assert not torch.equal(first, second)
    generator.set_state(state)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    again = torch.empty_like(x)
    round_to_grid(x, format, 0.01, rounding="stochastic", generator=generator, out=again, stats=row)
    assert torch.equal(first, again)
    assert torch.equal(
        second, quantize(x, format, torch.tensor(0.01), rounding="stochastic", generator=generator)
    )


def test_it_leaves_the_default_stream_alone_when_given_its_own() -> None:
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(21)
    round_to_grid(torch.randn(100, generator=generator), parse_format("E5M2"), 1.0,
                  rounding="stochastic", generator=generator)  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())


def test_bits_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match="bits"):
        round_to_grid(
            torch.ones(4), parse_format("E5M2"), rounding="stochastic", bits=torch.zeros(3, dtype=torch.int32)
        )
