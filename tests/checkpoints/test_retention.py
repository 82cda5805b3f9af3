"""Best, last two and every anomaly stay; leftovers of killed writers go."""

from __future__ import annotations

from pathlib import Path

import pytest

from altgrad_cli.checkpoints.file import write_checkpoint
from altgrad_cli.checkpoints.retention import (
    anomaly_checkpoints,
    anomaly_path,
    best_path,
    discard_leftovers,
    discard_old,
    newest_readable,
    regular_checkpoints,
    regular_path,
    set_aside,
)
from altgrad_cli.errors import CheckpointError


def fill(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(regular_path(folder, step), {"step": step})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_two_stay_with_best_and_anomalies(tmp_path: Path) -> None:
    fill(tmp_path, 9, 10, 100, 1_000_000)
    write_checkpoint(best_path(tmp_path), {"step": 9})
    write_checkpoint(anomaly_path(tmp_path, 9), {"step": 9})
    removed = discard_old(tmp_path)
    assert [path.name for path in removed] == ["step_000009.pt", "step_000010.pt"]
    assert names(tmp_path) == {"step_000100.pt", "step_1000000.pt", "best.pt", "anomaly_step_9.pt"}


def test_leftovers_are_told_from_checkpoints(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / ".step_000002.pt.4711.tmp").write_bytes(b"half")
    (tmp_path / ".notes.tmp").write_bytes(b"mine")
    assert [path.name for path in discard_leftovers(tmp_path)] == [".step_000002.pt.4711.tmp"]
    assert names(tmp_path) == {"step_000001.pt", ".notes.tmp"}


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    fill(tmp_path, 10, 20, 30)
    regular_path(tmp_path, 30).write_bytes(regular_path(tmp_path, 30).read_bytes()[:-1])
    saved = newest_readable(tmp_path)
    assert (saved.path.name, saved.payload["step"]) == ("step_000020.pt", 20)


def test_best_is_the_last_resort(tmp_path: Path) -> None:
    write_checkpoint(best_path(tmp_path), {"step": 5})
    regular_path(tmp_path, 10).write_bytes(b"")
    assert newest_readable(tmp_path).path.name == "best.pt"


def test_nothing_to_resume_from_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        newest_readable(tmp_path)
    regular_path(tmp_path, 10).write_bytes(b"")
    with pytest.raises(CheckpointError) as refused:
        newest_readable(tmp_path)
    assert refused.value.hint == "step_000010.pt: the file is empty"


def test_what_is_set_aside_is_lost_neither_once_nor_twice(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        regular_path(tmp_path, 30).write_bytes(content)
        assert set_aside(regular_path(tmp_path, 30)).read_bytes() == content
    assert regular_checkpoints(tmp_path) == []
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"one", b"two"}


def test_anomalies_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    names = ["anomaly_step_9.pt", "anomaly_step_53.pt", "anomaly_step_53_2.pt", "anomaly_step_404.pt"]
    for name in [*reversed(names), "anomaly_step_x.pt", "step_000001.pt"]:
        (tmp_path / name).touch()
    assert [path.name for path in anomaly_checkpoints(tmp_path)] == names
