"""Scales against their equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.scale import EMPTY_SCALE, compute_scale, round_up_to_power_of_two
from altgrad_cli.rounding.grid import Grid, operand_grid, stored_grid
from altgrad_cli.rounding.mode import round_to_grid
from altgrad_cli.rounding.scaling import AmaxHistory, scale_on_device, scales_of_amax

E5M2, E3M4, E7M0 = (parse_format(name) for name in ("E5M2", "E3M4", "E7M0"))


def by_amax(format: FP8Format, *, power_of_two: bool = True, margin: float = 1.0) -> Grid:
    return operand_grid(format, "amax", power_of_two=power_of_two, margin=margin)


@pytest.mark.parametrize("amax", [1e-10, 0.02, 1.0, 57344.0, 3e38])
def test_an_exact_scale_is_amax_over_the_maximum(amax: float) -> None:
    assert compute_scale(amax, E5M2) == amax / 57344
    assert compute_scale(torch.tensor(amax, dtype=torch.float64), E3M4) == amax / 124


@pytest.mark.parametrize("format", [E5M2, E3M4, E7M0], ids=lambda format: format.name)
def test_the_scale_has_no_cliff_down_to_the_end_of_float32(format: FP8Format) -> None:
    """Exact to 2^-126, then 2^-126 itself; never smaller for a larger amax."""
    amaxes = [1.3 * 2.0**exponent for exponent in range(-149, 128)]
    scales = [compute_scale(amax, format) for amax in amaxes]
    assert scales == [max(amax / format.max_representable_value, 2.0**-126) for amax in amaxes]
    assert scales == sorted(scales)


@pytest.mark.parametrize("name", ["E5M2", "E3M4", "E1M6", "E0M7", "E4M3"])
@pytest.mark.parametrize("exponent", [-33, -40, -53, -90, -110])
def test_small_tensors_are_rounded_as_well_as_large_ones(name: str, exponent: int) -> None:
    """The same digits at another magnitude round to the same digits."""
    format, x = parse_format(name), torch.linspace(0.5, 1.3, 500)
    for power_of_two in (True, False):
        rounded = [
            round_to_grid(y, format, by_amax(format, power_of_two=power_of_two).scales(y))
            for y in (x, x * 2.0**exponent)
        ]
        assert torch.equal(rounded[0] * 2.0**exponent, rounded[1])


def test_a_tensor_of_zeros_gets_the_scale_of_an_empty_one() -> None:
    assert compute_scale(0.0, E5M2) == compute_scale(0.0, E7M0) == EMPTY_SCALE


@pytest.mark.parametrize("amax", [math.nan, math.inf, -1.0])
def test_no_scale_follows_from_a_broken_amax(amax: float) -> None:
    with pytest.raises(UsageError, match="amax"):
        compute_scale(amax, E5M2)


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_rounding_up_to_a_power_of_two(scale: float) -> None:
    rounded = round_up_to_power_of_two(scale)
    assert math.frexp(rounded)[0] == 0.5
    assert rounded / 2 < scale <= rounded


@given(st.floats(min_value=1e-6, max_value=1e6), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_a_power_of_two_scale_never_lets_its_own_amax_overflow(amax: float, margin: float) -> None:
    largest = torch.tensor([amax], dtype=torch.float64)
    scale = scales_of_amax(largest, 124.0, power_of_two=True)
    assert amax / scale <= 124
    assert scale == round_up_to_power_of_two(amax / 124)
    assert scales_of_amax(largest, 124.0, power_of_two=True, margin=margin) == margin * scale
    assert scales_of_amax(largest, 124.0, power_of_two=False, margin=margin) == amax / 124 * margin


def test_the_current_scale_is_that_of_the_largest_finite_magnitude() -> None:
    x = torch.tensor([[0.5, -3.0], [1.0, 0.0]])
    exact = by_amax(E3M4, power_of_two=False)
    assert exact.scales(x) == 3 / 124
    assert by_amax(E3M4).scales(x) == 2.0**-5
    broken = torch.cat([x.flatten(), torch.tensor([math.nan, math.inf])])
    assert by_amax(E3M4).scales(broken) == 2.0**-5
    assert exact.scales(torch.full((2,), math.nan)) == EMPTY_SCALE
    assert exact.scales(torch.empty(0)) == EMPTY_SCALE


def test_the_device_form_of_the_current_scale_agrees() -> None:
    """The meta device shows that nothing is read back; a float64 loop shows the numbers."""
    assert scale_on_device(torch.empty(3, device="meta"), E3M4, power_of_two=True, margin=1.0).shape == ()
    for values in ([0.5, -3.0], [math.nan, 7.0], 0.0, math.inf, 1e-20, 1e-37, 3e-45, 124.0, 1.0):
        x = torch.tensor(values).view(-1)
        for power_of_two in (True, False):
            expected = by_amax(E3M4, power_of_two=power_of_two, margin=2.0).scales(x)
            scale = scale_on_device(x, E3M4, power_of_two=power_of_two, margin=2.0)
            assert float(scale) == float(expected.float())


def test_the_history_keeps_the_largest_of_the_last_entries() -> None:
    history = AmaxHistory(3)
    assert history.get_amax() == 0.0
    for value in (5.0, 1.0, 2.0):
        history.update(value)
    assert history.get_amax() == 5.0
    history.update(torch.tensor([-1.5, 0.5]))
    assert history.get_amax() == 2.0
    assert history.values == [1.0, 2.0, 1.5]


def test_a_non_finite_amax_never_enters_a_history() -> None:
    history = AmaxHistory(2)
    for value in (1.0, math.inf, torch.tensor([math.nan, 3.0]), torch.tensor(-math.inf)):
        history.update(value)
    assert history.values == [1.0]


def test_a_history_survives_a_checkpoint_as_plain_numbers() -> None:
    history, other = AmaxHistory(4), AmaxHistory(4)
    for value in range(6):
        history.update(float(value))
    other.values = list(history.values)
    for each in (history, other):
        each.update(1.0)
    assert history.values == other.values == [3.0, 4.0, 5.0, 1.0]
    assert len(other) == 4
    other.clear()
    assert len(other) == 0


def test_a_history_needs_room() -> None:
    with pytest.raises(UsageError):
        AmaxHistory(0)


def restored(amax: float, format: FP8Format, before: float | None) -> float:
    """The scale of stored weights with this amax that had the scale ``before``."""
    scale = None if before is None else torch.tensor(before, dtype=torch.float64)
    return float(stored_grid(format).stored_scales(torch.tensor([0.0, -amax]), scale))


def test_stored_weights_keep_their_scale_until_it_no_longer_fits() -> None:
    fresh = restored(1.0, E3M4, None)
    assert fresh == 2.0 ** math.ceil(math.log2(1.25 / 124))
    assert restored(124 * fresh, E3M4, fresh) == fresh
    assert restored(125.9 * fresh, E3M4, fresh) == fresh  # still rounds to the maximum
    assert restored(126 * fresh, E3M4, fresh) == 2 * fresh
    assert restored(31 * fresh, E3M4, fresh) == fresh
    lowered = restored(30.9 * fresh, E3M4, fresh)
    assert lowered == fresh / 2
    assert restored(30.9 * fresh, E3M4, lowered) == lowered  # and does not swing back
    assert restored(math.nan, E3M4, fresh) == fresh
    assert restored(0.0, E3M4, fresh) == fresh
    with pytest.raises(UsageError, match="amax"):
        restored(math.nan, E3M4, None)


def test_a_scale_that_stays_is_the_same_object() -> None:
    before = torch.tensor(2.0**-6, dtype=torch.float64)
    assert stored_grid(E3M4).stored_scales(torch.ones(3), before) is before
    assert stored_grid(E3M4).stored_scales(torch.ones(3), before, amax=4.0) is not before


def test_e7m0_is_stored_unscaled() -> None:
    assert restored(0.02, E7M0, None) == 1.0
    assert restored(1e9, E7M0, 1.0) == 1.0
