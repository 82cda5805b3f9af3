from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from altgrad_cli.errors import UsageError
from altgrad_cli.runs.record import build_record, read_run
from tests.reporting.recorded import LAYERS, config, raw_steps, record


def test_every_layer_value_is_the_one_in_the_log(tmp_path: Path) -> None:
    """Against a plain loop over the parsed lines."""
    run_dir = record(
        tmp_path / "run", config(), floor=2.5, stall=0.9, transfer=0.1, nonfinite_at=(5, 9), steps=60
    )
    log = read_run(run_dir)
    lines = raw_steps(run_dir)
    names = {name for line in lines for name in line["layers"]}
    assert set(log.layer_metrics) == names
    for name in names:
        for row, line in enumerate(lines):
            expected = line["layers"].get(name, [None] * len(LAYERS))
            for layer, value in enumerate(expected):
                measured = log.layer_metrics[name].measured[row, layer]
                assert measured == (value is not None), (name, row, layer)
                if value == "NaN":
                    assert math.isnan(log.layer_metrics[name].values[row, layer])
                elif value is not None:
                    assert log.layer_metrics[name].values[row, layer] == value


def test_null_and_nan_are_told_apart() -> None:
    values = [[None, "NaN"], [1.5, "Infinity"], [None, None]]
    lines = [{"event": "run_started", "step": 0, "layers": ["a", "b"], "config": {}}]
    lines += [
        {
            "event": "step",
            "step": i + 1,
            "metrics": {"loss": 1.0},
            "layers": {"m": row},
            "committed": True,
            "format": "E7M0",
        }
        for i, row in enumerate(values)
    ]
    column = build_record(Path("run"), lines).layer_metrics["m"]
    assert column.measured.tolist() == [[False, True], [True, True], [False, False]]
    assert math.isnan(column.values[0, 1])
    assert column.values[1].tolist() == [1.5, math.inf]


def test_only_the_asked_for_layer_metrics_are_kept(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", config(), floor=2.5, stall=0.9, transfer=0.1, steps=10)
    log = read_run(run_dir, layer_metrics={"gradient_norm", "no such metric"})
    assert set(log.layer_metrics) == {"gradient_norm"}
    assert len(log.metrics["loss"]) == 10


def test_histograms_are_added_over_the_layers(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", config(), floor=2.5, steps=40)
    line = raw_steps(run_dir)[19]
    tables = [table for table in line["histograms"]["gradients"] if table]
    assert len(tables) == len(LAYERS) - 1
    counts = read_run(run_dir).histograms["gradients"][20]
    assert counts.tolist() == [sum(column) for column in zip(*tables, strict=True)]


def test_rows_between_includes_both_ends(tmp_path: Path) -> None:
    log = read_run(record(tmp_path / "run", config(), floor=2.5, steps=30))
    assert log.steps[log.rows_between(5, 8)].tolist() == [5, 6, 7, 8]
    assert log.steps[log.rows_between(29, 99)].tolist() == [29, 30]
    assert log.last_step == 30


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_named(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", config(), floor=2.5, steps=10)
    events = run_dir / "events.jsonl"
    with events.open("a") as file:
        file.write('{"event": "step", "st')
    assert read_run(run_dir).last_step == 10
    lines = events.read_text().splitlines()
    lines[3] = lines[3][:50]
    events.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="line 4"):
        read_run(run_dir)


@pytest.mark.parametrize(
    "steps", [pytest.param(4_000, id="short"), pytest.param(100_000, marks=pytest.mark.campaign)]
)
def test_memory_stays_small_for_long_runs(tmp_path: Path, steps: int) -> None:
    """Eight bytes a value of the layer metrics that are read; no parsed line is held longer than needed."""
    import resource
    import subprocess
    import sys

    layers = {f"m{i}": [0.5] * 17 for i in range(20)} | {f"unread{i}": [0.25] * 17 for i in range(25)}
    metrics = {f"s{i}": 0.125 for i in range(40)} | {"loss": 2.0}
    step_line = json.dumps({"metrics": metrics, "layers": layers, "committed": True, "format": "E7M0"})[1:]
    started = {"event": "run_started", "step": 0, "config": {}, "layers": [f"l{i}" for i in range(17)]}
    with (tmp_path / "events.jsonl").open("w") as file:
        file.write(json.dumps(started) + "\n")
        file.writelines(f'{{"event": "step", "step": {step}, {step_line}\n' for step in range(1, steps + 1))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from altgrad_cli.runs.record import read_run\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "log = read_run(Path(sys.argv[1]), layer_metrics={f'm{i}' for i in range(20)})\n"
        "print(log.last_step, base, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    last, base, peak = map(int, result.stdout.split())
    assert last == steps
    assert resource.RUSAGE_SELF == 0  # ru_maxrss is in kilobytes on Linux
    values = steps * (20 * 17 * 9 + 41 * 16)
    # Twice, for the moment in which an array grows, plus 64 MB for what is being parsed.
    assert (peak - base) * 1024 < 2 * values + 64e6
    assert peak * 1024 < 2e9


def test_no_steps_give_no_columns() -> None:
    started = {"event": "run_started", "step": 0, "layers": ["a"], "config": {}}
    log = build_record(Path("run"), [started])
    assert log.layer_metrics == {}
    assert log.last_step == 0
    assert isinstance(log.steps, np.ndarray)
