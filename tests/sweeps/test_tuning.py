"""The search for a rate against a plain loop, on planted loss curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from altgrad_cli.sweeps.tuning import MOST_WIDENINGS, RateGrid, grid_around, grid_of, rate_word, search

Curve = Callable[[float], float]


def carried_out(grid: RateGrid, curve: Curve) -> tuple[float | None, dict[float, float], str | None]:
    """The best rate, everything that was tried, and the edge, trying one rate after the other."""
    losses: dict[float, float] = {}
    while True:
        found = search(grid, losses)
        left = [rate for rate in found.rates if rate not in losses]
        assert found.decided == (not left)
        if not left:
            return found.best, losses, found.edge
        losses[left[-1]] = curve(left[-1])


def by_hand(start: list[float], curve: Curve) -> float | None:
    """Evenly spaced exponents, a plain loop: go on at an end while the best lies there."""
    tried = {n: curve(rate) for n, rate in enumerate(start)}

    def of(n: int) -> float:
        return start[0] * 10 ** (n / 2) if n < 0 else start[-1] * 10 ** ((n - len(start) + 1) / 2)

    while True:
        finite = {n: loss for n, loss in tried.items() if math.isfinite(loss)}
        best = min(finite, key=lambda n: (finite[n], n)) if finite else min(tried)
        more = []
        if best == min(tried) > -MOST_WIDENINGS:
            more.append(best - 1)
        if finite and best == max(tried) < len(start) - 1 + MOST_WIDENINGS:
            more.append(best + 1)
        if not more:
            return of(best) if best not in range(len(start)) else start[best] if finite else None
        tried |= {n: curve(float(f"{of(n):.1e}")) for n in more}


def bowl(at: float, *, up_to: float = math.inf) -> Curve:
    """Lowest at ``at``, and infinite from ``up_to`` on."""
    return lambda rate: math.log10(rate / at) ** 2 if rate < up_to else math.inf


STARTS = [[6e-4], [6e-4, 1.9e-3], [1.9e-4, 6e-4, 1.9e-3], [1e-4, 1e-3, 1e-2, 1e-1]]


@pytest.mark.parametrize("start", STARTS, ids=len)
@pytest.mark.parametrize("at", [1e-9, 1e-5, 1.9e-4, 4e-4, 6e-4, 1e-3, 2e-3, 7e-3, 5e-2, 1e3])
@pytest.mark.parametrize("up_to", [math.inf, 1e-3, 1e-4])
def test_the_search_finds_what_a_plain_loop_finds(start: list[float], at: float, up_to: float) -> None:
    curve = bowl(at, up_to=up_to)
    best, tried, _ = carried_out(grid_of(start), curve)
    expected = by_hand(start, curve)
    assert (best is None) == (expected is None)
    if best is not None and expected is not None:
        assert best == pytest.approx(expected, rel=0.05)
        assert tried[best] == min(tried.values())
    assert len(tried) <= len(start) + len(grid_of(start).widest)


def test_the_grid_round_a_rate_has_two_digits_and_does_not_drift() -> None:
    grid = grid_around(6e-4)
    assert grid.start == (1.9e-4, 6e-4, 1.9e-3)
    assert (grid.below, grid.above) == ((6e-5, 1.9e-5, 6e-6), (6e-3, 1.9e-2, 6e-2))
    assert grid_around(5e-4).below[1] == 1.6e-5
    assert [rate_word(rate) for rate in (6e-4, 0.00175, 0.5, 1.0)] == ["6e-4", "1.75e-3", "5e-1", "1e+0"]


def test_a_best_rate_inside_needs_no_more() -> None:
    best, tried, edge = carried_out(grid_around(6e-4), bowl(5e-4))
    assert (best, len(tried), edge) == (6e-4, 3, None)


@pytest.mark.parametrize(("at", "best", "edge"), [(1e-9, 6e-6, "lowest"), (1e9, 6e-2, "highest")])
def test_at_an_edge_it_is_widened_three_times_and_then_said(at: float, best: float, edge: str) -> None:
    found, tried, said = carried_out(grid_around(6e-4), bowl(at))
    assert (found, len(tried), said) == (best, 6, edge)


def test_of_equal_losses_the_smaller_rate_wins() -> None:
    assert carried_out(grid_of([1e-3, 1e-2, 1e-1]), lambda rate: 2.0 if rate > 1e-3 else 3.0)[0] == 1e-2
    assert carried_out(grid_around(6e-4), lambda rate: 2.0)[0] == 6e-6


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_where_every_rate_diverges_there_is_no_best_and_lower_ones_were_tried(loss: float) -> None:
    best, tried, edge = carried_out(grid_around(6e-4), lambda rate: loss)
    assert (best, min(tried), max(tried), edge) == (None, 6e-6, 1.9e-3, None)


def test_what_has_not_ended_leaves_the_search_open() -> None:
    found = search(grid_around(6e-4), {6e-4: 2.0, 1.9e-3: math.nan})
    assert (found.decided, found.best) == (False, 6e-4)


def test_a_grid_ends_where_float32_does() -> None:
    assert grid_of([1.2e-38]).below == ()
    assert carried_out(grid_of([3e38]), lambda rate: -rate)[0] == 3e38
