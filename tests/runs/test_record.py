from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.runs.record import build_record, read_run
from altgrad_cli.runs.series import MAX_COLUMNS, LayerSeries, Series
from tests.sweeps.conftest import LAYERS, WriteLog


def test_a_series_leaves_out_what_was_not_measured_and_keeps_what_is_not_finite() -> None:
    series = Series()
    for step, value in enumerate([1.5, None, "NaN", "-Infinity", 0], start=1):
        series.add(step, value)
    assert list(series.steps) == [1, 3, 4, 5]
    assert math.isnan(series.values[1])
    assert list(series.values[2:]) == [-math.inf, 0.0]
    assert series.at(2) is None
    assert series.at(1) == 1.5
    assert series.at(5) == series.last() == 0.0
    assert series.at(9) is None


@pytest.mark.parametrize("steps", [1, 2, MAX_COLUMNS, MAX_COLUMNS + 1, 5 * MAX_COLUMNS + 7])
def test_layer_columns_are_the_means_of_a_plain_loop(steps: int) -> None:
    values = [[float(step % 7), None if step % 3 else float(step)] for step in range(1, steps + 1)]
    series = LayerSeries(2)
    for step, row in enumerate(values, start=1):
        series.add(step, row)
    columns = series.columns()
    assert len(columns) <= MAX_COLUMNS
    for last, means in columns:
        share = values[last - series.width : last]
        for layer in range(2):
            measured = [row[layer] for row in share if row[layer] is not None]
            expected = sum(measured) / len(measured) if measured else None  # type: ignore[arg-type]
            assert means[layer] == (None if expected is None else pytest.approx(expected))
    whole = [row[0] for row in values]
    assert series.means()[0] == pytest.approx(sum(whole) / len(whole))  # type: ignore[arg-type]


def test_a_value_that_is_not_finite_is_not_averaged_away() -> None:
    series = LayerSeries(1)
    for step in range(1, 2 * MAX_COLUMNS + 1):
        series.add(step, ["NaN" if step == 5 else 1.0])
    (_, (mean,)) = series.columns()[5 // series.width]
    assert mean is not None
    assert math.isnan(mean)


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
    assert record.layer_metrics["bit_stall_rate"].means() == [0.5, 1.0, None, 0.0]
    assert read_run(run_dir, layers=False).layer_metrics == {}


def test_a_log_without_an_ending_is_unfinished(write_log: WriteLog) -> None:
    record = read_run(write_log("a", outcome=None))
    assert record.outcome == "unfinished"
    assert record.collapse is None
    assert record.format == "E5M2"


def test_a_long_run_is_read_in_bounded_memory() -> None:
    """A short form of 100,000 steps x all layers: memory per step has to stay far below 20 kB."""
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
    assert len(record.snapshots) == 5
    layer_part = 10 * MAX_COLUMNS * 17 * 40
    assert peak < steps * 60 * 40 + layer_part + 10e6
