from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.runs.record import build_record, read_run
from altgrad_cli.runs.series import Series
from tests.sweeps.conftest import LAYERS, WriteLog


def test_a_series_leaves_out_what_was_not_measured_and_keeps_what_is_not_finite() -> None:
    series = Series.of(enumerate([1.5, None, "NaN", "-Infinity", 0], start=1))
    assert list(series.steps) == [1, 3, 4, 5]
    assert math.isnan(series.values[1])
    assert list(series.values[2:]) == [-math.inf, 0.0]
    assert series.at(2) is None
    assert series.at(1) == 1.5
    assert series.at(5) == series.last() == 0.0
    assert series.at(9) is None
    assert [series.before(step) for step in (1, 2, 4)] == [1.5, 1.5, pytest.approx(math.nan, nan_ok=True)]
    assert (Series().last(), Series().at(1), Series().before(1)) == (None, None, None)


def test_a_record_says_what_the_log_says(write_log: WriteLog) -> None:
    run_dir = write_log(
        "e7m0",
        losses=[3.0, 2.0, 1.0],
        validation={2: 2.5, 3: "NaN"},
        metrics={"overflow_rate/weights": [0.0, None, 0.2], "overflow_rate/gradients": [0.3, 0.3, 0.3]},
        layers={"bit_stall_rate": [0.5, 1.0, None, 0.0]},
        dropped=[3],
        outcome="collapsed",
        collapse={"class": "nonfinite", "step": 3},
    )
    record = read_run(run_dir)
    assert record.name == "e7m0"
    assert record.layers == list(LAYERS)
    assert record.final_loss == 1.0
    assert record.validation.at(2) == 2.5
    assert math.isnan(record.validation.last() or 0.0)
    assert record.mean("overflow_rate/weights") == pytest.approx(0.1)
    assert record.worst_role("overflow_rate") == pytest.approx(0.3)
    assert record.worst_role("underflow_rate") is None
    assert record.end("loss") == pytest.approx(2.0)
    assert record.median("loss") == 2.0
    assert record.dropped_steps == [3]
    assert record.outcome == "collapsed"
    assert record.collapse == {"class": "nonfinite", "step": 3}
    assert record.layer_means("bit_stall_rate") == [0.5, 1.0, None, 0.0]
    assert read_run(run_dir, layer_metrics=()).layer_metrics == {}


def test_a_log_without_an_ending_is_unfinished(write_log: WriteLog) -> None:
    record = read_run(write_log("a", outcome=None))
    assert record.outcome == "unfinished"
    assert record.collapse is None
    assert record.format == "E5M2"


def test_a_long_run_is_read_in_bounded_memory() -> None:
    """A short form of 100,000 steps x all layers: nine bytes a value, sixteen of a run metric."""
    steps = 3000

    def lines() -> Iterator[dict[str, Any]]:
        yield {"event": "run_started", "step": 0, "config": {}, "layers": [str(n) for n in range(17)]}
        for step in range(1, steps + 1):
            yield {
                "event": "step",
                "step": step,
                "metrics": {f"m{n}": 0.5 for n in range(60)},
                "layers": {f"l{n}": [0.25] * 17 for n in range(10)},
                "committed": True,
                "histograms": {"weights": [[1] * 257] * 17} if step % 50 == 0 else {},
            }

    tracemalloc.start()
    record = build_record(Path("x"), lines())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.last_step == steps
    values = steps * (60 * 16 + 10 * 17 * 9)
    # Twice, for the moment in which an array grows.
    assert peak < 2 * values + 10e6
