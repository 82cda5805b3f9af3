"""kill -9, a full disk, a read-only folder: what was finished stays whole, and the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import json, os, random, re, signal, sys, time
from pathlib import Path
from altgrad_cli.errors import AltgradError
from altgrad_cli.runs.log import read_lines
from altgrad_cli.runs.resumption import plan_resumption
from altgrad_cli.runs.run import carry_out
from altgrad_cli.runs.folder import RunDirectory, create_run
from altgrad_cli.checkpoints.file import read_checkpoint
from altgrad_cli.config.loading import load_config
from altgrad_cli.training.engine import train
from altgrad_cli.checkpoints.retention import newest_readable

def config(*overrides):
    return load_config("base", [
        "model.n_layer=1", "model.n_head=1", "model.n_embd=16", "model.block_size=8", "batch_size=2",
        "optimizer.warmup_steps=0", "runtime.evaluation_interval=10", "runtime.evaluation_batches=1",
        "runtime.checkpoint_interval=2", "use_shadow=false", *overrides,
    ])
"""

KILL = (
    COMMON
    + """
folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
settings = config("max_steps=60", "fp8_format=E7M0", "precision.rounding=stochastic")

def losses(path):
    return {line["step"]: line["metrics"]["loss"] for line in read_lines(path) if line["event"] == "step"}

def inspect(directory):
    '''What a kill left behind; returns the steps that the log says were checkpointed.'''
    if directory.checkpoints.is_dir():
        for path in directory.checkpoints.iterdir():
            if path.suffix == ".pt" and not path.name.startswith("."):
                read_checkpoint(path)
            else:
                assert re.fullmatch(r"\\..+\\.pt\\.\\d+\\.tmp", path.name), path.name
    finished = [0]
    for line in directory.events.read_text().splitlines() if directory.events.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line under way when the process died
        if event["event"] == "checkpoint" and event["path"] and event["reason"] == "regular":
            finished.append(event["step"])
    if max(finished):
        assert newest_readable(directory.checkpoints).payload["step"] >= max(finished), finished
    return max(finished)

whole = create_run(folder / "whole", settings)
carry_out(settings, whole)
expected = losses(whole.path)
done = runs = resumed_at = 0
while done < kills:
    runs += 1
    directory = create_run(folder / f"run_{runs}", settings)
    while done < kills:
        pid = os.fork()
        if pid == 0:
            carry_out(settings, directory, resume=plan_resumption(directory, may_begin_anew=True))
            os._exit(0)
        time.sleep(rng.uniform(0.05, 1.5))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break  # it was finished before the kill: the next run
        done += 1
        resumed_at = max(resumed_at, inspect(directory))
    carry_out(settings, directory, resume=plan_resumption(directory, may_begin_anew=True))
    found = losses(directory.path)
    assert found == expected, [n for n in found if found[n] != expected.get(n)]
    steps = [line["step"] for line in read_lines(directory.path) if line["event"] == "step"]
    assert steps == sorted(set(steps)), "no step stands in the log twice"
    assert not list(directory.checkpoints.glob(".*"))
print(json.dumps({"kills": done, "runs": runs, "resumed_at": resumed_at}))
"""
)

FULL_DISK = (
    COMMON
    + """
disk = Path(sys.argv[1])
problems, before = [], {}
for event in train(config("max_steps=8"), run_dir=disk / "run"):
    if event.kind != "checkpoint":
        continue
    if event.problem is not None:
        problems.append([event.step, event.path, event.problem])
    elif not before and event.reason == "regular" and event.step == 4:
        before = {path.name: path.read_bytes() for path in (disk / "run" / "checkpoints").glob("*.pt")}
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    last = event
checkpoints = disk / "run" / "checkpoints"
whole = {path.name: path.read_bytes() == before.get(path.name) for path in checkpoints.glob("*.pt")}
for path in checkpoints.glob("*.pt"):
    read_checkpoint(path)
print(json.dumps({
    "problems": problems, "kept": sorted(before), "whole": whole,
    "leftovers": [path.name for path in checkpoints.glob(".*")], "ended": last.kind,
    "resumable": newest_readable(checkpoints).payload["step"],
}))
"""
)

READ_ONLY = (
    COMMON
    + """
disk = Path(sys.argv[1])
problems, before = [], {}
events = []
for event in train(config("max_steps=8"), run_dir=disk / "run"):
    events.append(event.kind)
    if event.kind == "checkpoint" and event.problem is not None:
        problems.append([event.step, event.path, event.problem])
    elif event.kind == "checkpoint" and event.reason == "regular" and event.step == 4:
        before = {path.name: path.read_bytes() for path in (disk / "run" / "checkpoints").glob("*.pt")}
        assert os.system(f"mount -o remount,ro {disk}") == 0
checkpoints = disk / "run" / "checkpoints"
print(json.dumps({
    "problems": problems, "ended": events[-1],
    "whole": {path.name: path.read_bytes() == before[path.name] for path in checkpoints.glob("*.pt")},
    "resumable": newest_readable(checkpoints).payload["step"],
}))
"""
)


def on_a_small_disk(script: str, tmp_path: Path, size: str) -> dict:
    """Run ``script`` with a tmpfs of its own; skips where a user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0"'
    allowed = subprocess.run(["unshare", "-Urm", "sh", "-c", mount, disk], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$1" -c "$2" "$0"', disk, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_full_disk_costs_checkpoints_and_not_the_run(tmp_path: Path) -> None:
    found = on_a_small_disk(FULL_DISK, tmp_path, "4m")
    assert found["ended"] == "checkpoint"
    assert found["problems"]
    for _, path, problem in found["problems"]:
        assert path is None
        assert problem.startswith("cannot write ") and problem.endswith(": no space left on device")
    assert set(found["kept"]) <= set(found["whole"])
    assert all(found["whole"][name] for name in found["kept"])
    assert found["leftovers"] == []
    assert found["resumable"] == 4


def test_a_folder_that_became_read_only_costs_checkpoints_and_not_the_run(tmp_path: Path) -> None:
    found = on_a_small_disk(READ_ONLY, tmp_path, "16m")
    assert found["ended"] == "run_ended"
    problems = [problem for _, _, problem in found["problems"]]
    assert problems
    assert all(
        problem.startswith("cannot write ") and problem.endswith(": read-only file system")
        for problem in problems
    )
    assert all(found["whole"].values())
    assert found["resumable"] == 4


def killed(tmp_path: Path, kills: int, seed: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", KILL, tmp_path, str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_runs_resume_with_nothing_lost(tmp_path: Path) -> None:
    assert killed(tmp_path, 4, seed=1)["kills"] == 4


@pytest.mark.campaign
def test_fifty_kills(tmp_path: Path) -> None:
    found = killed(tmp_path, 50, seed=2)
    assert found["kills"] == 50
    assert found["resumed_at"] > 0  # some kills came after a checkpoint
