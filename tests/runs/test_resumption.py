"""Every resume of a run whose checkpoints or log were harmed: on to the same record, or refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.runs.folder import RunDirectory, create_run
from altgrad_cli.runs.log import read_lines
from altgrad_cli.runs.resumption import plan_resumption
from altgrad_cli.runs.run import carry_out
from tests.runs.test_run import history, stop_after
from tests.small import small

Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``; ``stopped`` after seven steps, with checkpoints of 6, 7 and (best) 4; ``foreign``."""
    folder = tmp_path_factory.mktemp("runs")

    def config(*overrides: str) -> TrainConfig:
        intervals = ("runtime.evaluation_interval=4", "runtime.checkpoint_interval=3")
        return small("max_steps=8", *intervals, *overrides)

    for name, steps, overrides in (("whole", 8, ()), ("stopped", 7, ()), ("foreign", 7, ("seed=43",))):
        directory = create_run(folder / name, config(*overrides))
        heard, stop = stop_after(steps)
        carry_out(config(*overrides), directory, [heard], stop_requested=stop)
    return folder


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_steps(*steps: int) -> Harm:
    def harm(run: Path) -> None:
        lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
        kept = [
            line for line in lines if not (json.loads(line)["step"] in steps and '"event":"step"' in line)
        ]
        (run / "events.jsonl").write_text("".join(kept))

    return harm


def cut_behind(step: int) -> Harm:
    def harm(run: Path) -> None:
        lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
        (run / "events.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))

    return harm


def replace_line(number: int, text: str) -> Harm:
    def harm(run: Path) -> None:
        lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
        lines[number] = f"{text}\n"
        (run / "events.jsonl").write_text("".join(lines))

    return harm


def foreign(run: Path) -> None:
    shutil.copy(run.parent / "foreign-events.jsonl", run / "events.jsonl")


def cut_before_evaluation(run: Path) -> None:
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if json.loads(line)["step"] == 4 and "evaluated" in line)
    (run / "events.jsonl").write_text("".join(lines[:end]))


CHECKPOINTS: dict[str, tuple[Harm, list[int]]] = {
    "all": (lambda run: None, [7, 6, 4]),
    "no": (lambda run: [path.unlink() for path in run.glob("checkpoints/*")], []),  # type: ignore[list-item,return-value]
    "damaged": (lambda run: [halve(path) for path in run.glob("checkpoints/*")], []),  # type: ignore[list-item,return-value,func-returns-value]
    "newest damaged": (lambda run: halve(run / "checkpoints/step_000007.pt"), [6, 4]),
}
"""Harm to the checkpoints, and the steps of those that stay readable."""
LOGS: dict[str, tuple[Harm, int]] = {
    "whole": (lambda run: None, 7),
    "cut": (cut_behind(5), 5),
    "cut before an evaluation": (cut_before_evaluation, 3),
    "torn": (lambda run: halve(run / "events.jsonl"), -1),
    "holed early": (without_steps(2), 1),
    "holed late": (without_steps(7), 6),
    "headless": (replace_line(0, '{"event":"run_started","step":1,"config":{},"layers":[]}'), -1),
    "damaged line": (replace_line(2, '{"event":"step","step":1,"metr'), 0),
    "emptied": (lambda run: (run / "events.jsonl").write_text(""), -1),  # type: ignore[dict-item,return-value]
    "random": (lambda run: (run / "events.jsonl").write_bytes(random.Random(1).randbytes(9000)), -1),  # type: ignore[dict-item,return-value]
    "missing": (lambda run: (run / "events.jsonl").unlink(), -1),
    "foreign": (foreign, -1),
}
"""Harm to the log, and the last step up to which it can be trusted as this run's."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
def test_a_harmed_run_goes_on_to_the_same_record_or_stays_as_it_is(
    runs: Path, tmp_path: Path, checkpoints: str, log: str
) -> None:
    shutil.copy(runs / "foreign" / "events.jsonl", tmp_path / "foreign-events.jsonl")
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    (harm_checkpoints, readable), (harm_log, trusted) = CHECKPOINTS[checkpoints], LOGS[log]
    harm_checkpoints(run)
    harm_log(run)
    before = contents(run)
    directory = RunDirectory(run)
    if log == "torn":  # where the half ends is not for the test to know
        trusted = max(line["step"] for line in read_lines(run) if line["event"] == "step")
        assert trusted < 4, "before the first checkpoint, which is the best one"
    start = max((step for step in readable if step <= trusted), default=None)
    if start is None:
        with pytest.raises(CheckpointError, match="nothing to go on from") as refused:
            plan_resumption(directory)
        assert contents(run) == before
        assert all(path.name in refused.value.message for path in run.glob("checkpoints/*"))
        assert str(run / "config.yaml") in (refused.value.hint or "")
        return
    plan = plan_resumption(directory)
    assert plan.step == start
    assert bool(plan.warnings()) == (start != 7)
    carry_out(plan.config, directory, resume=plan)
    assert history(run) == history(runs / "whole")
    after = contents(run)
    damaged = "events.jsonl" if log not in ("whole", "cut") else None
    for name, content in before.items():
        if name == damaged:  # what followed the damage is not written again
            kept = after[f"events_after_step_{start}.jsonl"]
            assert content.endswith(kept) and content[: -len(kept)] == after[name][: len(content) - len(kept)]
        elif name in (f"checkpoints/step_00000{step}.pt" for step in (6, 7) if step > start):
            assert content in after.values(), name


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def random_bytes(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.randint(8, 4000)) + data[at + draw.randrange(4000) :]


def flipped(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def emptied(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines[draw.randrange(len(lines))] = b"\n"
    return b"".join(lines)


def swapped(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    steps = [number for number, line in enumerate(lines) if json.loads(line)["event"] == "step"]
    one, other = draw.sample(steps, 2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


Damage = Callable[[bytes, random.Random], bytes]
LOG_DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "random bytes": random_bytes,
    "emptied": emptied,
    "swapped": swapped,
}
CHECKPOINT_DAMAGES: dict[str, Damage | None] = {"whole": None, "cut": cut, "flipped": flipped}


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.campaign) for n in range(1, 25))])
@pytest.mark.parametrize("newest", CHECKPOINT_DAMAGES)
@pytest.mark.parametrize("log", LOG_DAMAGES)
def test_after_damage_at_random_the_record_is_the_same_or_nothing_is_touched(
    runs: Path, tmp_path: Path, log: str, newest: str, seed: int
) -> None:
    draw = random.Random(f"{log} {newest} {seed}")
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    events, checkpoint = run / "events.jsonl", run / "checkpoints" / "step_000007.pt"
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(LOG_DAMAGES[log](events.read_bytes(), draw))
    damage = CHECKPOINT_DAMAGES[newest]
    if damage is not None:
        checkpoint.write_bytes(damage(checkpoint.read_bytes(), draw))
    left = events.read_bytes().splitlines(keepends=True)
    whole = next((n for n, (a, b) in enumerate(zip(lines, left, strict=False)) if a != b), len(left))
    holds_all_of = max((json.loads(line)["step"] - 1 for line in lines[:whole]), default=-1)
    before = contents(run)
    try:
        plan = plan_resumption(RunDirectory(run))
    except CheckpointError:
        assert holds_all_of < 4, "the best checkpoint is of step 4"
        assert contents(run) == before
        return
    readable = (4, 6, 7) if damage is None else (4, 6)
    assert plan.step in readable
    assert plan.step >= max(step for step in readable if step <= max(4, holds_all_of))
    carry_out(plan.config, RunDirectory(run), resume=plan)
    assert history(run) == history(runs / "whole")


def test_a_run_of_a_sweep_begins_anew_only_if_it_never_had_a_checkpoint(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    CHECKPOINTS["no"][0](run)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        plan_resumption(RunDirectory(run), may_begin_anew=True)
    cut_behind(2)(run)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        plan_resumption(RunDirectory(run))
    plan = plan_resumption(RunDirectory(run), may_begin_anew=True)
    assert (plan.checkpoint, plan.step) == (None, 0)
    carry_out(plan.config, RunDirectory(run), resume=plan)
    assert history(run) == history(runs / "whole")


def test_what_was_verified_is_what_is_gone_on_from(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    plan = plan_resumption(RunDirectory(run))
    halve(run / "checkpoints" / "step_000007.pt")  # it is not read again
    carry_out(plan.config, RunDirectory(run), resume=plan)
    assert history(run) == history(runs / "whole")


def test_what_is_changed_and_not_yet_in_a_checkpoint_is_remembered(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    directory = RunDirectory(run)
    plan = plan_resumption(directory, overrides=["precision.rounding=stochastic", "max_steps=20"])
    assert plan.changed == ("max_steps=20", "precision.rounding=stochastic")
    heard, stop = stop_after(8)
    carry_out(plan.config, directory, [heard], resume=plan, stop_requested=stop)
    (run / "checkpoints/step_000008.pt").unlink()  # killed before it
    again = plan_resumption(directory)
    assert (again.step, again.changed, again.config) == (7, (), plan.config)


@pytest.mark.parametrize("overrides", [["max_steps=6"], ["max_steps=5", "seed=1"]])
def test_a_run_cannot_end_before_the_step_it_has_reached(
    runs: Path, tmp_path: Path, overrides: list[str]
) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    halve(run / "checkpoints/step_000007.pt")
    before = contents(run)
    with pytest.raises(UsageError, match="has taken 7 steps already"):
        plan_resumption(RunDirectory(run), overrides=overrides)
    assert contents(run) == before


@pytest.mark.parametrize("override", ["model.n_embd=64", "data.tokenizer=bpe:300"])
def test_a_run_that_the_engine_refuses_is_left_as_it_is(runs: Path, tmp_path: Path, override: str) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    before = contents(run)
    plan = plan_resumption(RunDirectory(run), overrides=[override, "max_steps=9"])
    with pytest.raises(UsageError):
        carry_out(plan.config, RunDirectory(run), resume=plan)
    assert contents(run) == before
