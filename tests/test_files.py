"""Whole files: written through links, into pipes and devices, and otherwise all or nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from altgrad_cli.errors import UsageError, WriteError
from altgrad_cli.files import check_outputs, write_together, write_whole

NEW = "what is new\n"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_link_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to("elsewhere/target")
    write_whole(link, NEW)
    assert link.is_symlink()
    assert target.read_text() == NEW


def test_a_dangling_link_comes_to_point_to_the_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")
    write_whole(link, NEW)
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == NEW


def test_a_link_into_a_missing_folder_is_refused_and_makes_none(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("unmounted/target")
    with pytest.raises(WriteError, match="no such file"):
        write_whole(link, NEW)
    assert files_in(tmp_path) == {"link"}


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(WriteError):
        write_whole(link, NEW)
    assert link.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    link = tmp_path / "link"
    link.symlink_to("null")
    for path in (device, link):
        check_outputs(("--html", path), force=False)
        write_whole(path, NEW)
    assert device.is_char_device()
    assert link.is_symlink()
    assert files_in(tmp_path) == {"null", "link"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_block_device_is_refused(tmp_path: Path) -> None:
    device = tmp_path / "disk"
    os.mknod(device, 0o666 | stat.S_IFBLK, os.makedev(7, 250))
    with pytest.raises(UsageError, match="neither a file"):
        check_outputs(("--html", device), force=True)
    with pytest.raises(WriteError, match="neither a file"):
        write_whole(device, NEW)


def test_a_full_device_is_one_error_with_its_path() -> None:
    with pytest.raises(WriteError, match="/dev/full: no space left on device"):
        write_whole(Path("/dev/full"), NEW)


def test_a_pipe_gets_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    check_outputs(("--html", pipe), force=False)
    for _ in range(1000):  # until the reader has opened it
        try:
            write_whole(pipe, NEW * 100_000)
            break
        except WriteError:
            threading.Event().wait(0.005)
    reader.join(timeout=20)
    assert received == [NEW * 100_000]
    assert pipe.is_fifo()


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(WriteError, match="nobody reads this pipe"):
        write_whole(pipe, NEW)
    assert pipe.is_fifo()


def written_to_stdout(script: str, **streams: object) -> bytes:
    done = subprocess.run([sys.executable, "-c", script], check=True, stdin=subprocess.DEVNULL, **streams)  # type: ignore[call-overload]
    return bytes(done.stdout or b"")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_the_own_stdout_is_written_wherever_it_goes(tmp_path: Path, name: str) -> None:
    script = (
        "from pathlib import Path\nfrom altgrad_cli.files import check_outputs, write_whole\n"
        f"check_outputs(('--html', Path({name!r})), force=False)\nwrite_whole(Path({name!r}), 'page')\n"
        "print('after')"
    )
    assert written_to_stdout(script, stdout=subprocess.PIPE) == b"pageafter\n"
    path = tmp_path / "shell-made-this"
    with path.open("wb") as file:
        written_to_stdout(script, stdout=file)
    assert path.read_bytes() == b"pageafter\n"
    assert files_in(tmp_path) == {path.name}


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="it is a folder"):
        write_whole(tmp_path, NEW)
    with pytest.raises(UsageError, match="is a folder"):
        check_outputs(("--html", tmp_path), force=True)


def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")

    def parts() -> object:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="page: no space left on device"):
        write_whole(path, parts())  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert files_in(tmp_path) == {"page"}


def test_files_that_belong_together_come_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "folder" / "picture", tmp_path / "blocked"
    second.mkdir()
    with pytest.raises(WriteError):
        write_together({first: b"picture", second: NEW})
    assert files_in(tmp_path) == {"blocked"}


def test_the_mode_of_a_replaced_file_is_kept_and_a_new_one_follows_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "page"
    before = os.umask(0o027)
    try:
        write_whole(path, NEW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_whole(path, NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_file_marked_read_only_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(UsageError, match="read-only"):
        check_outputs(("--html", path), force=True)
    with pytest.raises(WriteError, match="read-only"):
        write_whole(path, NEW)
    assert path.read_text() == "old"
    assert files_in(tmp_path) == {"page"}


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path, link = tmp_path / "page", tmp_path / "link"
    path.write_text("old")
    link.symlink_to("page")
    for name in (path, link):
        with pytest.raises(UsageError, match="exists and is not replaced") as caught:
            check_outputs(("--html", name), force=False)
        assert "--force" in (caught.value.hint or "")
        check_outputs(("--html", name), force=True)


def test_two_options_may_not_name_one_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("page")
    for other in (tmp_path / "page", tmp_path / "folder" / ".." / "page", link):
        with pytest.raises(UsageError, match="--markdown and --html name the same file"):
            check_outputs(("--markdown", tmp_path / "page"), ("--html", other), force=True)


def test_a_path_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        check_outputs(("--html", tmp_path / "file" / "page"), force=True)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "page"
    check_outputs(("--html", path), force=False)
    write_whole(path, NEW)
    assert path.read_text() == NEW
