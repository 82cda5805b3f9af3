"""Grids that are one experiment under two names."""

from __future__ import annotations

import pytest

from altgrad_cli.formats import FORMAT_REGISTRY, named_formats, parse_format
from altgrad_cli.formats.equivalence import find_equivalents, power_of_two_factor
from tests.formats.oracles import gfloat_values


def test_e1m6_is_e0m7_times_4_code_by_code() -> None:
    e1m6, e0m7 = FORMAT_REGISTRY["E1M6"], FORMAT_REGISTRY["E0M7"]
    assert power_of_two_factor(e1m6, e0m7) == 4.0
    assert power_of_two_factor(e0m7, e1m6) == 0.25
    assert (gfloat_values(e1m6) == 4 * gfloat_values(e0m7)).all()


def test_the_named_formats_hold_exactly_these_equivalences() -> None:
    found = {(f.name, e.format.name): e.factor for f in named_formats() for e in find_equivalents(f)}
    assert found == {
        ("E1M6", "E0M7"): 4.0,
        ("E0M7", "E1M6"): 0.25,
        ("E4M3:fnuz", "E4M3B11FNUZ"): 8.0,
        ("E4M3B11FNUZ", "E4M3:fnuz"): 0.125,
    }


@pytest.mark.parametrize(
    "name, other, factor, same_specials",
    [
        ("E3M4:bias=3", "E3M4", 0.25, True),
        ("E4M3:finite", "E4M3:fnuz", 2.0, False),  # one grid, other specials
        ("E5M2:fn", "E5M2", None, False),
        ("E3M4:ieee", "E3M4", None, False),  # the top binade is missing
        ("E2M5", "E3M4", None, True),
    ],
)
def test_equal_grids_under_other_names(
    name: str, other: str, factor: float | None, same_specials: bool
) -> None:
    format, against = parse_format(name), parse_format(other)
    assert power_of_two_factor(format, against) == factor
    found = find_equivalents(format, [against])
    assert [(e.factor, e.same_specials) for e in found] == (
        [] if factor is None else [(factor, same_specials)]
    )


def test_a_factor_other_than_a_power_of_two_is_no_equivalence() -> None:
    # E0M2 = {0, 1/4, 2/4, 3/4}; E2M0 = {0, 1, 2, 4}: as many codes, another shape.
    assert power_of_two_factor(parse_format("E0M2"), parse_format("E2M0")) is None
