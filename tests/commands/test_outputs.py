"""Every output option of every command, met by everything that may lie where it is told to write.

The options are read off the app itself: a new one of path kind fails here until it is said what it does.
What a user had is unharmed, or written through; a failure is one plain error and leaves nothing behind.
What is only read is met so too. All cases are the campaign; the quick layer takes, by seed, one kind for each
option and one option for each kind.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import pytest
import typer
from _pytest.mark.structures import ParameterSet
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from tests.small import ARGUMENTS

Option = tuple[str, str]
OUTPUT_FILES = {
    ("report", "--html"): ["report", "{run}", "--html"],
    ("report", "--markdown"): ["report", "{run}", "--markdown"],
    ("diagnose-checkpoint", "--markdown"): ["diagnose-checkpoint", "{run}", "--markdown"],
    ("claims", "--markdown"): ["claims", "accumulate", "--markdown"],
    ("inspect-format", "--plot"): ["inspect-format", "E5M2", "--plot"],
}
OUTPUT_FOLDERS = {
    ("train", "--out"): ["train", "{small}", "max_steps=1", "-q", "--out"],
    ("sweep", "--out"): ["sweep", "{small}", "max_steps=1", "-q", "--order=e5m2", "--no-retries", "--out"],
}
TAKEN_UP = {
    ("train", "--resume"): ["train", "--resume"],
    ("sweep", "--resume"): ["sweep", "--resume"],
}
"""Folders that are written to if they are a run's or a sweep's, and else refused."""
ONLY_READ = {
    ("report", "folders"): ["report", "{path}"],
    ("report", "--verify"): ["report", "--verify", "{path}"],
    ("diagnose-checkpoint", "file"): ["diagnose-checkpoint", "{path}", "--format", "E5M2"],
    ("diagnose-checkpoint", "--against"): ["diagnose-checkpoint", "{run}", "--against", "{path}"],
    ("inspect-format", "--on"): ["inspect-format", "E5M2", "--on", "{path}"],
    ("ls", "folder"): ["ls", "{path}"],
}
READ_BY_ARGUMENTS = {
    ("train", "CONFIG"): ["train", "{path}", "-q"],
    ("train", "data.path"): ["train", "smoke", "data.path={path}", "-q"],
}
"""What the app reads of the ``key=value`` words, whose types it does not know."""


def path_options() -> Iterator[Option]:
    """Command and name of everything on a command line that the app reads as a path."""

    def holds_path(hint: object) -> bool:
        return hint is Path or any(map(holds_path, get_args(hint)))

    group = typer.main.get_command(app)
    context = typer.Context(group)
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        hints = get_type_hints(unwrap(command.callback))
        yield from ((name, each.opts[0]) for each in command.params if holds_path(hints.get(each.name)))


def test_it_is_known_of_every_path_whether_it_is_written_to() -> None:
    assert sorted(path_options()) == sorted({*OUTPUT_FILES, *OUTPUT_FOLDERS, *TAKEN_UP, *ONLY_READ})


# --- what may lie at the path ---


@dataclass(frozen=True)
class Kind:
    """What lies where an option is told to write, and what comes of it."""

    make: Callable[[Path], object]
    file: int
    """Exit code of a command that is to write a file there."""
    folder: int
    """Exit code of a command that is to make a folder there."""
    says: str = ""
    """Part of the error of a file; without one, what is there is written through or fed."""


def users_file(path: Path) -> None:
    path.write_text("years of work")


def link_to(target: str, make: Callable[[Path], object] = lambda path: None) -> Callable[[Path], object]:
    def make_link(path: Path) -> None:
        elsewhere = path.parent.parent / "elsewhere" / target
        make(elsewhere)
        path.symlink_to(f"../elsewhere/{target}")

    return make_link


def device(minor: int) -> Callable[[Path], object]:
    """A device beside /dev/null (1:3) or /dev/full (1:7): if one is lost, the machine's own are not."""

    def make(path: Path) -> None:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            path.open("wb").close()
        except PermissionError as error:
            pytest.skip(f"no device can be made here: {error}")

    return make


def users_folder(path: Path) -> None:
    path.mkdir()
    users_file(path / "thesis.md")


def mount(folder: Path, options: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def full_disk(path: Path) -> None:
    if not mount(path.parent, "size=64k"):
        pytest.skip("no right to mount a small disk here")
    with path.with_name("ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert not os.statvfs(path.parent).f_bavail


def read_only(path: Path) -> None:
    users_file(path.with_name("beside"))
    if os.geteuid() != 0:
        path.parent.chmod(0o555)
    elif not mount(path.parent, "ro"):
        pytest.skip("root writes where it likes, and has no right to mount a read-only disk here")


KINDS = {
    "nothing": Kind(lambda path: None, file=0, folder=0),
    "a file": Kind(users_file, file=2, folder=2, says="exists and is not replaced"),
    "a link to a file": Kind(
        link_to("page", users_file), file=2, folder=2, says="exists and is not replaced"
    ),
    "a link to nothing": Kind(link_to("page"), file=0, folder=2),
    "a pipe": Kind(os.mkfifo, file=1, folder=2, says="nobody reads this pipe"),
    "a pipe with a reader": Kind(os.mkfifo, file=0, folder=2),
    "a device": Kind(device(3), file=0, folder=2),
    "a link to a device": Kind(link_to("null", device(3)), file=0, folder=2),
    "a full device": Kind(device(7), file=1, folder=2, says="no space left on device"),
    "an empty folder": Kind(Path.mkdir, file=2, folder=0, says="is a folder"),
    "a folder with a file": Kind(users_folder, file=2, folder=2, says="is a folder"),
    "a link to an empty folder": Kind(link_to("empty", Path.mkdir), file=2, folder=0, says="is a folder"),
    "a full disk": Kind(full_disk, file=1, folder=1, says="no space left on device"),
    "a read-only folder": Kind(read_only, file=2, folder=2, says="read-only|permission denied|may not be"),
}
CASES = [
    *((option, kind, forced) for option in OUTPUT_FILES for kind in KINDS for forced in (False, True)),
    *((option, kind, False) for option in (*OUTPUT_FOLDERS, *TAKEN_UP) for kind in KINDS),
]


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a pipe": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a folder": users_folder,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a file of noise": lambda path: path.write_bytes(random.Random(1).randbytes(5000)),
}
READS = [
    (option, kind)
    for option in (*ONLY_READ, *READ_BY_ARGUMENTS, *TAKEN_UP)
    for kind in UNREADABLE
    if (option, kind) not in {(("ls", "folder"), "a folder"), (("train", "data.path"), "a folder")}
]
"""A folder without a run is listed, and one with a text is a corpus."""
Case = TypeVar("Case", bound=tuple[object, ...])


def in_parts(cases: Sequence[Case], cheap: Callable[[Case], object], seed: int = 12) -> list[ParameterSet]:
    """All cases; marked as the campaign's but for one, drawn by seed, of each option and of each kind."""
    draw = random.Random(seed)
    chosen = set()
    for part in (0, 1):
        for value in dict.fromkeys(case[part] for case in cases):
            chosen.add(draw.choice([case for case in cases if case[part] == value and cheap(case)]))
    return [pytest.param(*case, marks=[] if case in chosen else pytest.mark.campaign) for case in cases]


def does_not_sweep(case: tuple[Option, str, bool]) -> bool:
    """A sweep that runs is for the campaign."""
    return case[0] != ("sweep", "--out") or bool(KINDS[case[1]].folder)


def name_of(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else {True: "forced", False: ""}.get(value, str(value))  # type: ignore[call-overload]


# --- what is there before and after ---


def things(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below ``root``: kind and mode, and the link's target, the device's number or the content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        what: object = None
        if stat.S_ISLNK(status.st_mode):
            what = path.readlink()
        elif stat.S_ISCHR(status.st_mode):
            what = status.st_rdev
        elif stat.S_ISREG(status.st_mode):
            what = path.read_bytes()
        found[path.relative_to(root).as_posix()] = (stat.S_IFMT(status.st_mode), status.st_mode, what)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert altgrad("train", *ARGUMENTS, "max_steps=2", "--capture-at", "2", "-q", "--out", out).exit_code == 0
    return out


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for the output, with a neighbour; given back as it was found, whatever was mounted on it."""
    folder = tmp_path / "world" / "place"
    folder.mkdir(parents=True)
    (tmp_path / "world" / "elsewhere").mkdir()
    yield folder
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o755)


@contextmanager
def reader_of(pipe: Path) -> Iterator[list[bytes]]:
    """Somebody who reads ``pipe`` as long as the block lasts: what he has read, once it is left."""
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    held = None
    while held is None:
        with suppress(OSError):  # he has not opened it yet
            held = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    yield received
    os.close(held)
    reader.join(timeout=60)


def altgrad(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@cache
def written_alone(words: tuple[str, ...], path: Path) -> bytes:
    """What the command writes where nothing stands in its way."""
    assert altgrad(*words, path).exit_code == 0
    return path.read_bytes()


def command_of(words: list[str], **paths: Path) -> list[str]:
    return [part for word in words for part in (ARGUMENTS if word == "{small}" else [word.format(**paths)])]


@pytest.mark.parametrize(("option", "kind", "forced"), in_parts(CASES, does_not_sweep), ids=name_of)
def test_what_the_user_had_is_unharmed(
    option: Option,
    kind: str,
    forced: bool,
    place: Path,
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world, path, expected = place.parent, place / "page.svg", KINDS[kind]
    expected.make(path)
    before = things(world)
    is_fed = kind == "a pipe with a reader" and option in OUTPUT_FILES
    received: AbstractContextManager[list[bytes] | None] = reader_of(path) if is_fed else nullcontext()
    words = command_of({**OUTPUT_FILES, **OUTPUT_FOLDERS, **TAKEN_UP}[option], run=run)
    with received as fed:
        result = altgrad(*words, path, *(["--force"] if forced else []))
    after = things(world)
    assert "Traceback" not in result.output
    new = {name: after[name] for name in after if after[name] != before.get(name)}
    assert not before.keys() - after.keys()
    if option in TAKEN_UP:
        code = 2
    elif option in OUTPUT_FOLDERS:
        code = expected.folder
    else:
        code = 0 if forced and expected.says.startswith("exists") else expected.file
    assert result.exit_code == code, result.output
    if code:
        assert not new
        assert result.stderr.count("error: ") == 1
        if option in OUTPUT_FILES:
            assert any(word in " ".join(result.stderr.lower().split()) for word in expected.says.split("|"))
    elif option in OUTPUT_FOLDERS:
        made = "elsewhere/empty" if "link" in kind else "place/page.svg"
        assert all(f"{name}/".startswith(f"{made}/") for name in new)
        assert list(world.glob(f"{made}/**/events.jsonl"))
    elif "device" in kind:
        assert not new
    else:
        alone = written_alone(tuple(words), tmp_path_factory.mktemp("alone") / "world" / "place" / "page.svg")
        if fed is not None:
            assert not new
            assert fed[0].splitlines()[0] == alone.splitlines()[0]
            assert len(fed[0]) > len(alone) / 2, "Markdown has no pictures beside a pipe"
        else:
            pictures = [name for name in new if name.startswith("place/page") and name != "place/page.svg"]
            written = "elsewhere/page" if "link" in kind else "place/page.svg"
            assert new.keys() - set(pictures) == {written}
            assert new[written][2] == alone
            assert bool(pictures) == (option in [("report", "--markdown"), ("claims", "--markdown")])


@pytest.mark.parametrize(("option", "kind"), in_parts(READS, bool), ids=name_of)
def test_what_cannot_be_read_is_refused_at_once(
    option: Option, kind: str, run: Path, in_tmp_folder: Path
) -> None:
    path = in_tmp_folder / "given.txt"
    UNREADABLE[kind](path)
    words = command_of(
        {**ONLY_READ, **READ_BY_ARGUMENTS}.get(option, [*option, "{path}"]), run=run, path=path
    )
    result = altgrad(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error: ") == 1
    assert not list(in_tmp_folder.glob("runs/*"))
