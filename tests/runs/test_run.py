"""One run in its folder, and what happens when it is stopped and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError, UsageError
from altgrad_cli.runs.folder import create_run, read_json, sole_writer
from altgrad_cli.runs.log import read_lines
from altgrad_cli.runs.resumption import plan_resumption
from altgrad_cli.runs.run import carry_out
from altgrad_cli.training.events import Event, StepCompleted

Tiny = Callable[..., TrainConfig]
_TIMES = ("tokens_per_second",)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def history(run_dir: Path) -> list[dict[str, Any]]:
    """The log without clocks and the joints of resumptions."""
    lines = []
    for line in read_lines(run_dir):
        if line["event"] in ("run_started", "checkpoint"):
            continue
        if line["event"] == "step":
            line["metrics"] = {key: value for key, value in line["metrics"].items() if key not in _TIMES}
        lines.append(line)
    return lines


def test_listeners_hear_what_the_log_holds(tmp_path: Path, tiny: Tiny) -> None:
    directory = create_run(tmp_path / "a", tiny())
    heard = Heard()
    ended = carry_out(tiny(), directory, [heard])
    assert ended is not None
    assert ended.outcome == "completed"
    assert [event.kind for event in heard.events] == [line["event"] for line in read_lines(directory.path)]
    assert heard.closed == 1
    assert read_json(directory.summary)["outcome"] == "completed"


def stop_after(step: int) -> tuple[Heard, Callable[[], bool]]:
    heard = Heard()
    return heard, lambda: any(isinstance(e, StepCompleted) and e.step >= step for e in heard.events)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_a_stopped_run_goes_on_to_the_same_log(tmp_path: Path, tiny: Tiny, step: int) -> None:
    config = tiny("fp8_format=E7M0", "precision.rounding=stochastic")
    whole = create_run(tmp_path / "whole", config)
    carry_out(config, whole)
    directory = create_run(tmp_path / "stopped", config)
    heard, stop = stop_after(step)
    assert carry_out(config, directory, [heard], stop_requested=stop) is None
    assert read_json(directory.summary)["outcome"] == "unfinished"
    ended = carry_out(config, directory, resume=plan_resumption(directory))
    assert ended is not None
    assert history(directory.path) == history(whole.path)


def test_a_run_killed_in_the_middle_of_a_line_goes_on_to_the_same_log(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny()
    whole = create_run(tmp_path / "whole", config)
    carry_out(config, whole)
    directory = create_run(tmp_path / "killed", config)
    heard, stop = stop_after(7)
    carry_out(config, directory, [heard], stop_requested=stop)
    with directory.events.open("ab") as file:
        file.write(b'{"event": "step", "step": 8, "metr')
    (directory.checkpoints / "step_000007.pt").write_bytes(b"half a checkpoint")
    carry_out(config, directory, resume=plan_resumption(directory))
    assert history(directory.path) == history(whole.path)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("runtime.checkpoint_interval=0")
    directory = create_run(tmp_path / "a", config)
    heard, stop = stop_after(2)
    carry_out(config, directory, [heard], stop_requested=stop)
    assert carry_out(config, directory, resume=plan_resumption(directory, may_begin_anew=True)) is not None
    steps = [line["step"] for line in read_lines(directory.path) if line["event"] == "step"]
    assert steps == list(range(1, 9))


def test_a_run_has_one_writer(tmp_path: Path, tiny: Tiny) -> None:
    directory = create_run(tmp_path / "a", tiny())
    with (
        sole_writer(directory),
        pytest.raises(UsageError, match="another process is writing"),
        sole_writer(directory, wait_seconds=0.3),
    ):
        raise AssertionError("two writers")
    with sole_writer(directory, wait_seconds=0):
        pass


def test_a_log_that_cannot_be_written_ends_the_run_with_a_remedy(tmp_path: Path, tiny: Tiny) -> None:
    directory = create_run(tmp_path / "a", tiny())
    directory.events.mkdir()
    with pytest.raises(AltgradError, match="log cannot be written") as caught:
        carry_out(tiny(), directory)
    assert "--resume" in str(caught.value.hint)


def test_listeners_are_closed_when_one_of_them_fails(tmp_path: Path, tiny: Tiny) -> None:
    class Failing(Heard):
        def receive(self, event: Event) -> None:
            raise ValueError("a listener's fault")

    heard = Heard()
    with pytest.raises(ValueError, match="fault"):
        carry_out(tiny(), create_run(tmp_path / "a", tiny()), [heard, Failing()])
    assert heard.closed == 1


def test_every_line_is_strict_json(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("inject=nan@3:blocks.0.attn.c_attn:gradients", "nan_policy=first")
    directory = create_run(tmp_path / "a", config)
    ended = carry_out(config, directory)
    assert ended is not None
    assert ended.outcome == "collapsed"

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for line in directory.events.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
