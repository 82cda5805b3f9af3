"""Ranks against closed forms and numpy's SVD, and the fall of a rank against a fitted line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from altgrad_cli.metrics.thresholds import RANK_WINDOW
from altgrad_cli.metrics.weights.rank import RANK_METRICS, RankTrend, measure_rank

RANKS = ("stable_rank", "effective_rank", "variance_rank")


def ranks_of(weight):
    measured = measure_rank(weight)
    return [measured[name] for name in RANKS]


def by_numpy(weight):
    """The definitions read literally, over numpy's singular values."""
    matrix = weight.double().numpy().reshape(len(weight), -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = [v / sum(values) for v in values]
    squares = np.sort(values**2)[::-1]
    count = next(k for k in range(1, len(squares) + 1) if squares[:k].sum() >= 0.99 * squares.sum())
    return {
        "stable_rank": np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2,
        "effective_rank": math.exp(-sum(p * math.log(p) for p in shares if p > 0)),
        "variance_rank": count,
        "spectral_norm": np.linalg.norm(matrix, 2),
    }


@pytest.mark.parametrize("shape", [(384, 128), (32, 96), (128, 128), (8, 3, 2, 2), (1, 7), (7, 1)])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_measures_are_those_of_numpys_singular_values(shape, decay):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    rows = torch.exp(-decay * torch.arange(shape[0], dtype=torch.float32))
    weight *= rows.view(-1, *[1] * (len(shape) - 1))
    assert measure_rank(weight) == pytest.approx(by_numpy(weight), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, -3.0, 2.0**-140, 2.0**127])
def test_closed_forms_at_any_scale(scale):
    """n equal singular values: stable and effective rank n, and 99 % take ceil(0.99 n) of them."""
    assert ranks_of(scale * torch.eye(32)) == pytest.approx([32, 32, 32])
    assert ranks_of(scale * torch.eye(250)) == pytest.approx([250, 250, 248])
    orthogonal = torch.linalg.qr(torch.randn(40, 24, generator=torch.Generator().manual_seed(1)).double())[0]
    assert ranks_of(scale * orthogonal) == pytest.approx([24, 24, 24])
    one = torch.outer(torch.arange(1.0, 9.0), torch.arange(-3.0, 3.0))
    assert ranks_of(scale / 32 * one) == pytest.approx([1, 1, 1], abs=1e-12)


def test_two_singular_values_by_hand():
    """3 and 1: (9 + 1) / 9; entropy of 3/4 and 1/4; the first holds 90 %."""
    measured = measure_rank(torch.diag(torch.tensor([1.0, 0.0, -3.0])))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = {"stable_rank": 10 / 9, "effective_rank": math.exp(entropy), "variance_rank": 2}
    assert measured == pytest.approx(expected | {"spectral_norm": 3})
    enough = measure_rank(torch.diag(torch.tensor([0.0, 10.0, 1.0])))
    assert enough["variance_rank"] == 1, "100 / 101 is more than 0.99"


def test_zero_has_no_rank_and_what_is_not_finite_is_nan():
    assert measure_rank(torch.zeros(4, 3)) == dict.fromkeys(RANKS) | {"spectral_norm": 0.0}
    for bad in (math.nan, math.inf, -math.inf):
        weight = torch.eye(4)
        weight[1, 2] = bad
        assert all(value is not None and math.isnan(value) for value in measure_rank(weight).values())


def test_the_weight_stays_as_it_was():
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    before = weight.detach().clone()
    measure_rank(weight)
    assert torch.equal(weight, before)
    assert weight.grad is None


def test_every_value_has_a_spec():
    assert {*measure_rank(torch.eye(2)), "effective_rank_fall"} == {spec.name for spec in RANK_METRICS}


# --- the fall --------------------------------------------------------------------------------------


def falls(ranks, trend=None):
    """Of one layer, measurement by measurement."""
    trend = trend or RankTrend(1)
    return [trend.advance([rank])[0] for rank in ranks]


def test_a_rank_that_halves_over_the_window_lost_half_of_it():
    found = falls([100 * 0.5 ** (k / (RANK_WINDOW - 1)) for k in range(RANK_WINDOW + 3)])
    assert found == [None] * (RANK_WINDOW - 1) + [pytest.approx(0.5)] * 4


def test_a_rank_that_stays_lost_nothing_and_one_that_doubles_is_negative():
    assert falls([7.0] * RANK_WINDOW)[-1] == 0.0
    assert falls([2.0**k for k in range(RANK_WINDOW)])[-1] == pytest.approx(1 - 2 ** (RANK_WINDOW - 1))


def test_the_line_is_that_of_numpy_over_the_last_five():
    ranks = [120.0, 90.0, 118.0, 60.0, 77.0, 81.0, 20.0]
    slope = np.polyfit(range(RANK_WINDOW), np.log(ranks[-RANK_WINDOW:]), 1)[0]
    assert falls(ranks)[-1] == pytest.approx(1 - math.exp(slope * (RANK_WINDOW - 1)))


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_layer_without_a_rank_starts_anew_and_the_others_go_on(missing):
    trend = RankTrend(2)
    for step in range(RANK_WINDOW):
        found = trend.advance([missing if step == 2 else 5.0, 5.0])
    assert found == [None, 0.0]
    assert falls([5.0, 5.0, 5.0], trend=trend)[-1] == 0.0


def test_the_window_survives_saving_and_loading_and_a_reset_empties_it():
    ranks = [120.0, 100.0, 90.0, 70.0, 41.3, 12.9]
    trend, fresh = RankTrend(1), RankTrend(1)
    falls(ranks[:3], trend)
    fresh.load_state_dict(json.loads(json.dumps(trend.state_dict())))
    assert falls(ranks[3:], fresh) == falls(ranks)[3:]
    fresh.reset()
    assert falls(ranks[:4], fresh) == [None] * 4
