from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.errors import UsageError
from altgrad_cli.runs import folder
from altgrad_cli.runs.folder import (
    check_name,
    create_folder,
    create_run,
    open_run,
    read_json,
    safe_name,
    unused_path,
    write_json,
)


def test_a_new_run_holds_its_resolved_config(tmp_path: Path) -> None:
    config = load_config("e7m0_uniform", ["max_steps=7"])
    directory = create_run(tmp_path / "a", config)
    assert directory.load_config() == config
    assert directory.name == "a"
    assert directory.checkpoints.is_dir()


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    config = load_config("smoke")
    create_run(tmp_path / "a", config)
    before = (tmp_path / "a" / "config.yaml").read_bytes()
    with pytest.raises(UsageError, match="never overwritten") as caught:
        create_run(tmp_path / "a", load_config("smoke", ["seed=1"]))
    assert str(tmp_path / "a-2") in str(caught.value.hint)
    assert (tmp_path / "a" / "config.yaml").read_bytes() == before


def test_of_two_processes_that_were_given_one_folder_the_later_one_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    first = create_run(path, load_config("smoke"))
    before = first.config.read_bytes()
    monkeypatch.setattr(folder, "create_folder", lambda path, where: [])  # it was empty when it was looked at
    with pytest.raises(UsageError, match="never overwritten"):
        create_run(path, load_config("smoke", ["seed=1"]))
    assert first.config.read_bytes() == before
    assert first.checkpoints.is_dir()


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert create_folder(tmp_path / "empty") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="never overwritten"):
        create_folder(tmp_path / "file")


def test_unused_paths_count_up(tmp_path: Path) -> None:
    assert unused_path(tmp_path, "a").name == "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert unused_path(tmp_path, "a").name == "a-3"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_one_clear_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="permission denied"):
        create_run(closed / "a", load_config("smoke"))


def test_a_path_through_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        create_run(tmp_path / "file" / "a", load_config("smoke"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".hidden", "a b", "ä", "x" * 121, "a\n", "a\0"])
def test_names_that_are_no_safe_file_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        check_name(name)


@pytest.mark.parametrize("text", ["e3m4:bias=3", "../../etc", "a b/c", "ü", "E7M0-uniform"])
def test_a_safe_name_is_safe(text: str) -> None:
    assert check_name(safe_name(text)) == safe_name(text)


def test_only_a_run_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        open_run(tmp_path)
    directory = create_run(tmp_path / "a", load_config("smoke"))
    assert open_run(tmp_path / "a") == directory


def test_json_is_strict_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"loss": float("nan"), "best": float("inf")})
    assert json.loads(path.read_text()) == {"loss": "NaN", "best": "Infinity"}
    write_json(path, {"loss": 1.0})
    assert read_json(path) == {"loss": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100_000])
def test_what_is_no_json_object_is_a_usage_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError):
        read_json(path)
