from __future__ import annotations

import json
from pathlib import Path

import pytest

from altgrad_cli.errors import UsageError
from altgrad_cli.runs.log import cut_after, has_ended, read_lines


def _write(run_dir: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    run_dir.mkdir(exist_ok=True)
    path = run_dir / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def step(number: int, **metrics: object) -> dict[str, object]:
    return {"event": "step", "step": number, "metrics": metrics, "layers": {}, "committed": True}


STEPS: list[dict[str, object]] = [
    {"event": "run_started", "step": 0, "config": {}, "layers": []},
    step(1),
    step(2, loss="NaN"),
    {"event": "checkpoint", "step": 2, "path": "checkpoints/best.pt", "reason": "best"},
    step(3, loss=2.5),
    {"event": "run_ended", "step": 3, "outcome": "completed", "reason": "", "collapse": None, "formats": []},
]


def test_lines_come_in_order(tmp_path: Path) -> None:
    _write(tmp_path, STEPS)
    assert list(read_lines(tmp_path)) == STEPS


@pytest.mark.parametrize("length", range(1, 30))
def test_a_torn_last_line_is_passed_over_wherever_it_is_torn(tmp_path: Path, length: int) -> None:
    torn = json.dumps({"event": "step", "step": 4, "metrics": {}})[:length]
    _write(tmp_path, STEPS[:3], torn)
    assert list(read_lines(tmp_path)) == STEPS[:3]
    assert not has_ended(tmp_path)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, STEPS[:2])
    path.write_text(path.read_text() + "{broken\n" + json.dumps(STEPS[2]) + "\n")
    with pytest.raises(UsageError, match="damaged line 3"):
        list(read_lines(tmp_path))


def test_no_log_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no events"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(("step", "kept"), [(-1, 0), (0, 1), (1, 2), (2, 4), (3, 5), (9, 5)])
def test_cutting_leaves_what_was_true_at_the_step(tmp_path: Path, step: int, kept: int) -> None:
    path = _write(tmp_path, STEPS, '{"event": "st')
    before = path.read_bytes()
    kept_beside = cut_after(tmp_path, step, keep=True)
    assert kept_beside is not None
    assert path.read_bytes() + kept_beside.read_bytes() == before
    assert list(read_lines(tmp_path)) == STEPS[:kept]


def test_cutting_no_log_is_nothing(tmp_path: Path) -> None:
    assert cut_after(tmp_path, 3, keep=True) is None
    assert not (tmp_path / "events.jsonl").exists()


def test_a_run_has_ended_only_with_its_last_event(tmp_path: Path) -> None:
    assert not has_ended(tmp_path)
    _write(tmp_path, STEPS[:-1])
    assert not has_ended(tmp_path)
    _write(tmp_path, STEPS)
    assert has_ended(tmp_path)
    _write(tmp_path, [])
    assert not has_ended(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(step(3, loss="abc")),
        json.dumps(step(3) | {"step": 1e18}),
        json.dumps(step(3) | {"step": True}),
        json.dumps(step(3) | {"layers": {"bit_stall_rate": [0.5, "x"]}}),
        json.dumps(step(3) | {"committed": None}),
        json.dumps(step(3, loss=2.5)).replace("2.5", "1" * 400),
        "[" * 100_000,
        "[1]",
        "NaN",
    ],
)
def test_a_line_that_is_no_event_is_damage(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path, STEPS[:4])
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match="damaged line 5"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(
    ("left_out", "said"), [(0, "beginning"), (1, "step 1 "), (2, "step 2 "), (4, "step 3 ")]
)
def test_a_missing_line_is_damage(tmp_path: Path, left_out: int, said: str) -> None:
    _write(tmp_path, STEPS[:left_out] + STEPS[left_out + 1 :])
    with pytest.raises(UsageError, match=f"{said}.*is missing"):
        list(read_lines(tmp_path))
