"""A run's folder on disk: what lies where, how it is created, and how an interrupted one is picked up.

    runs/<name>/
      config.yaml        every key of the configuration, resolved
      events.jsonl       one JSON object a line, flushed; the only truth, everything readable derives from it
      checkpoints/       best.pt, the last two, anomaly_step_<n>.pt
      failure_report.md  written from the events where the run ended badly
      run.json           outcome and verdict, for a quick look

A folder that holds anything is never written over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altgrad_cli.config.loading import load_tree, to_yaml
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError, WriteError
from altgrad_cli.files import make_folders, open_regular, reason_of, remove_empty, write_whole
from altgrad_cli.training.events import to_json_value

RUNS = Path("runs")
JsonObject = dict[str, Any]
"""An object of a file that anybody may have written."""
SWEEP = "sweep.json"
"""The file that makes a folder of runs a sweep."""
RUN_SCHEMA = "altgrad.run/1"
"""Of ``run.json``."""
CONFIG, EVENTS, CHECKPOINTS, SUMMARY = "config.yaml", "events.jsonl", "checkpoints", "run.json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,119}")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The folder of one run; ``path`` exists and may be written to."""

    path: Path
    made: tuple[Path, ...] = field(default=(), compare=False)
    """The folders that were made for a new run, outermost first."""

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def events(self) -> Path:
        """The log: one event a line."""
        return self.path / EVENTS

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def summary(self) -> Path:
        """Outcome and verdict in short."""
        return self.path / SUMMARY

    def load_config(self) -> TrainConfig:
        """The configuration the run was started with."""
        return load_tree(TrainConfig, self.config)

    def write_summary(self, values: Mapping[str, object]) -> None:
        """Replace ``run.json``."""
        write_json(self.summary, values)


def check_name(name: str) -> str:
    """``name`` if it is a safe file name, else UsageError."""
    if not _SAFE_NAME.fullmatch(name):
        raise UsageError(
            f"not a name for a run: {name!r}",
            where="--name",
            allowed="letters, digits and . _ + = -, at most 120, the first a letter or a digit",
        )
    return name


def safe_name(text: str) -> str:
    """``text`` with everything a file name should not hold turned into ``-``."""
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", text).strip("-.") or "run"


def unused_path(parent: Path, name: str) -> Path:
    """``parent/name``, or ``parent/name-2``, ``-3``, ... where that is taken."""
    path, number = parent / name, 2
    while path.exists():
        path, number = parent / f"{name}-{number}", number + 1
    return path


def _another(path: Path, where: str) -> str:
    """The option that names a folder which can be made in place of ``path``."""
    if where == "--name":
        return f"--name {unused_path(path.parent, path.name[:110]).name}"
    whole = path.resolve()
    of_system = whole.parts[1:2] in (("dev",), ("proc",), ("sys",)) or whole.parent == whole
    if of_system or not os.access(whole.parent, os.W_OK):
        beside = unused_path(RUNS, safe_name(whole.name))
    elif path.name in ("", ".."):
        beside = unused_path(whole.parent, whole.name)
    else:
        beside = unused_path(path.parent, path.name[:200])
    return f"{where} {shlex.quote(str(beside))}"


def create_folder(path: Path, where: str = "--out") -> list[Path]:
    """Make ``path``, or take it if it is an empty folder; UsageError where that is impossible.

    Two processes that ask for one new folder at the same time may both be given it: ``create_run`` decides.

    Returns:
        The folders that were made, outermost first: if nothing comes of it, ``remove_empty`` takes them away.
    """
    made: list[Path] = []
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _in_use(path, where)
        made = make_folders(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        remove_empty(made)
        raise _unwritable(path, error, where) from None
    return made


def _in_use(path: Path, where: str) -> UsageError:
    return UsageError(
        f"{path} exists and is never overwritten",
        where=where,
        hint=f"name another folder: {_another(path, where)}",
    )


def create_run(path: Path, config: TrainConfig, *, where: str = "--out") -> RunDirectory:
    """A new run's folder with its resolved configuration and an empty ``checkpoints/``.

    Raises:
        UsageError: there can be none at ``path``.
        WriteError: the disk is full; what was made is gone again.
    """
    directory = RunDirectory(path, tuple(create_folder(path, where)))
    try:
        directory.checkpoints.mkdir()
    except FileExistsError:
        raise _in_use(path, where) from None  # another process has taken the folder just now: it is not ours
    except OSError as error:
        remove_empty(directory.made)
        raise _unwritable(path, error, where) from None
    try:
        write_whole(directory.config, to_yaml(config))
    except (OSError, WriteError) as error:
        discard_unstarted(directory)
        raise (_unwritable(path, error, where) if isinstance(error, OSError) else error) from None
    return directory


def discard_unstarted(directory: RunDirectory) -> None:
    """Empty a new run's folder, and take it away if it was made for it, where the first event never came."""
    if directory.events.exists() and directory.events.stat().st_size:
        return
    with contextlib.suppress(OSError):  # the error that led here is the one to be told
        for path in directory.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    remove_empty(directory.made)


def open_run(path: Path) -> RunDirectory:
    """The folder of an earlier run; UsageError where ``path`` is none."""
    if not (path / CONFIG).is_file():
        raise UsageError(
            f"{path} is not the folder of a run",
            where="--resume",
            allowed=f"a folder that holds {CONFIG}",
        )
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path} may not be written to", where="--resume", hint="check its permissions")
    return RunDirectory(path)


@contextlib.contextmanager
def sole_writer(directory: RunDirectory, *, wait_seconds: float = 20.0) -> Iterator[None]:
    """Hold the run for this process: two that write one log would spoil it.

    Waits a little, since the worker of a sweep that was just killed needs a step to notice. The system lets
    go of the lock with the process, however that ends.

    Raises:
        UsageError: another process keeps writing the run.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    deadline = time.monotonic() + wait_seconds
    folder = os.open(directory.path, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"another process is writing {directory.path}",
                        where=str(directory.path),
                        hint="wait for it to end, or end it",
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(folder)


def is_being_written(path: Path) -> bool:
    """Whether a process holds the run or sweep in ``path`` as its sole writer."""
    try:
        import fcntl

        folder = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(folder)
    return False


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write ``values`` so that a reader (or a crash) sees the old file or the new one, never half of it."""
    write_whole(path, json.dumps(to_json_value(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, schema: str | None = None) -> JsonObject:
    """The object in ``path``; UsageError where there is none, or one of another ``schema`` than this."""
    try:
        with open_regular(path) as file:
            value = json.loads(file.read())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} does not hold a JSON object", where=str(path))
    if schema is not None:
        _check_schema(path, value, schema)
    return value


def check_run_schema(run_dir: Path) -> None:
    """UsageError where ``run.json`` is of a schema that is not known here, for so may be all of the run.

    One that is absent or damaged says nothing: what a run came to stands in its log.
    """
    path = run_dir / SUMMARY
    try:
        summary = read_json(path)
    except UsageError:
        return
    _check_schema(path, summary, RUN_SCHEMA)


def _check_schema(path: Path, document: JsonObject, schema: str) -> None:
    stated = document.get("schema", schema)
    if stated != schema:
        raise UsageError(
            f"{path} is of schema {str(stated)[:60]!r}",
            where=str(path),
            allowed=schema,
            hint="a later altgrad reads it",
        )


def _unwritable(path: Path, error: OSError, where: str) -> UsageError:
    return UsageError(
        f"cannot write to {path}: {reason_of(error)}",
        where=where,
        hint="name a folder you may write to with --out",
    )
