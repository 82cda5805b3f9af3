"""Totals: of counts by column, of layers' values, and of a batch that several workers share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.spec import Pooling
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.training.measuring.reduce import pool, pool_values, whole_batch
from altgrad_cli.training.passes.eager import run_pass
from tests.training.states import gpt_state, random_batch


def test_pool_adds_takes_maxima_and_leaves_out_what_was_not_measured() -> None:
    columns = ("count", "hits", "peak")
    unmeasured = [math.nan] * 3
    assert pool(columns, [[2, 1, 5.0], unmeasured, [3, 2, 4.0]], ("peak",)) == {
        "count": 5,
        "hits": 3,
        "peak": 5.0,
    }
    assert pool(columns, []) == {"count": 0, "hits": 0, "peak": 0}


def test_pool_keeps_nan_and_inf() -> None:
    columns = ("count", "sum", "peak")
    pooled = pool(columns, [[1, math.nan, 1.0], [1, 2.0, math.nan]], ("peak",))
    assert math.isnan(pooled["sum"])
    assert math.isnan(pooled["peak"])
    assert pool(columns, [[1, math.inf, 1.0], [1, 2.0, 2.0]])["sum"] == math.inf


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("sum", 7.0), ("max", 4.0), ("layers", 3.5), ("weights", (3.0 * 10 + 4.0 * 30) / 40)],
)
def test_the_values_of_the_layers_are_pooled_as_the_spec_says(pooling: Pooling, expected: float) -> None:
    assert (
        pool_values(pooling, [3.0, None, 4.0, None], [10, 20, 30]) == expected
    )  # the head has no weights here
    assert pool_values(pooling, [None], [10]) is None
    spoilt = pool_values(pooling, [3.0, math.nan, 4.0], [1, 1, 1])
    assert spoilt is not None and math.isnan(spoilt)


def test_a_metric_made_of_counts_has_no_pool_of_values() -> None:
    with pytest.raises(ValueError, match="counts"):
        pool_values("counts", [1.0], [1])


def test_the_counts_of_two_workers_are_those_of_the_whole_batch(tiny: Callable[..., TrainConfig]) -> None:
    """Half the rows each, at scales for which something overflows; the whole batch is the oracle."""
    state = gpt_state(tiny("fp8_format=E3M4", "precision.regime=standard"))
    scale = torch.tensor(2.0**-14, dtype=torch.float64)
    scales = {
        (layer, role): scale for layer in range(len(state.layers)) for role in range(len(OPERAND_ROLES))
    }
    batch = random_batch(3, rows=6)
    halves = [Batch(batch.x[rows], batch.y[rows]) for rows in (slice(0, 3), slice(3, 6))]
    parts = [run_pass(state, half, scales=scales).stats for half in halves]
    whole = run_pass(state, batch, scales=scales).stats
    assert whole is not None and parts[0] is not None and parts[1] is not None
    total = whole_batch([parts[0], parts[1]])
    counts = [STATS.index(name) for name in STATS if not name.endswith("_sum")]
    for role in ("weights", "activations"):  # a half's mean loss makes gradients twice as large
        mine, theirs = (table[:, OPERAND_ROLES.index(role)] for table in (total, whole))  # type: ignore[arg-type]
        assert torch.equal(mine[:, counts], theirs[:, counts]), role
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # sums in float32
    assert float(total[:, 1, STATS.index("overflow")].sum()) > 0
    assert whole_batch([whole]) is whole
