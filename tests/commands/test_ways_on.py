"""What the program says to do next works when it is done: hints, next commands, and a reader that leaves."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from tests.small import ARGUMENTS


def altgrad(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


TINY = (*ARGUMENTS, "max_steps=2", "precision.regime=fp32")
"""Arguments of a run of two steps."""


def hint_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return str(result.stderr.rpartition("hint: ")[2].strip())


@pytest.mark.parametrize(
    "options",
    [
        ("--name", "smoke"),
        ("--name", "n" * 120),
        ("--out", "full"),
        ("--out", "full of years"),
        ("--out", "full/"),
        ("--out", "full/../full"),
        ("--out", "."),
        ("--out", "a file"),
        ("--out", "/dev/null"),
        ("--out", "/dev"),
        ("--out", "/"),
    ],
)
def test_the_folder_that_is_named_in_place_of_one_in_use_can_be_made(
    options: tuple[str, str], in_tmp_folder: Path
) -> None:
    for name in ("runs/smoke", "runs/" + "n" * 120, "full", "full of years"):
        (in_tmp_folder / name).mkdir(parents=True)
        (in_tmp_folder / name / "work").touch()
    (in_tmp_folder / "a file").touch()
    hint = hint_of(altgrad("train", *TINY, *options))
    named = shlex.split(hint.removeprefix("name another folder: "))
    assert named[0] == options[0]
    if named[0] == "--out":  # looked at before it is followed: a wrong hint must not write into the system
        assert Path(named[1]).resolve().is_relative_to(in_tmp_folder.parent)
    again = altgrad("train", *TINY, "-q", *named)
    assert again.exit_code == 0, again.stderr


def followed(arguments: list[str], hint: str) -> list[str]:
    """``arguments`` as somebody types them again who does what ``hint`` says."""
    if hint.startswith("did you mean "):
        meant = hint.removeprefix("did you mean ").partition("?")[0].partition(" or ")[0].split()
        if meant[0] == "altgrad":
            return [*meant[1:], *arguments[1:]]
        if "=" in meant[0]:  # two words that were meant to be one
            rest = [word for word in arguments if word not in meant[0].split("=")]
            return [*rest, meant[0]]
        words = [part for argument in arguments for part in {argument, *argument.split("=")}]
        wrong = difflib.get_close_matches(meant[0], set(words) - {meant[0]}, n=1, cutoff=0.0)[0]
        if meant[0] == "learning_rate":
            wrong = "lr"
        return [argument.replace(wrong, meant[0]) for argument in arguments]
    if hint.startswith("name another folder: "):
        return [*arguments, *shlex.split(hint.removeprefix("name another folder: "))]
    if ": altgrad " in hint:
        return shlex.split(hint.partition(": altgrad ")[2])
    if hint.startswith("for one run: "):
        return [*arguments[:-1], shlex.split(hint)[-1]]
    assert re.fullmatch(r"[a-z_.]+=\S+", hint), f"a hint that nobody can follow: {hint}"
    return [*arguments, hint]


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect-fromat", "E3M4"],
        ["rep", "--help"],
        ["inspect-format", "E3M4", "--compair", "E5M2"],
        ["inspect-format", "e3n4"],
        ["train", "smokes", "--dry-run"],
        ["train", "smoke", "--dri-run"],
        ["train", "smoke", "lr=1e-3", "--dry-run"],
        ["train", "smoke", "max_steps", "3", "--dry-run"],
        ["train", "smoke", "optimizer.warmpu_steps=1", "--dry-run"],
        ["train", "smoke", "precision.regime=unifrom", "--dry-run"],
        ["train", "smoke", "fp8_format=e3n4", "--dry-run"],
        ["train", "smoke", "model.n_head=3", "--dry-run"],
        ["train", "smoke", "data.tokenizer=byte", "--dry-run"],
        ["sweep", "smoke", "--dry-run", "--order", "e3m4,e7n0"],
        ["sweep", "smoke", "--dry-run", "--set", "optimizer.betas=0.9,0.95"],
        ["ls", "nowhere"],
        ["report"],
    ],
    ids=" ".join,
)
def test_every_hint_can_be_followed(arguments: list[str], in_tmp_folder: Path) -> None:
    again = followed(arguments, hint_of(altgrad(*arguments)))
    result = altgrad(*again)
    assert result.exit_code == 0, f"{again}: {result.stderr}"


def test_several_words_without_an_equals_sign() -> None:
    assert hint_of(altgrad("train", "base", "max_steps", "100")) == "did you mean max_steps=100?"
    assert hint_of(altgrad("sweep", "base", "smoke")).startswith("give one of them")


def test_allowed_is_what_is_allowed_and_no_bracket_is_lost() -> None:
    result = altgrad("train", "--nonsense")
    assert "  allowed: --out, --name" in result.stderr
    assert "OPTIONS" not in result.stderr
    assert "argument(s) (foo)\n" in altgrad("inspect-format", "E3M4", "foo").stderr
    assert "allowed:" not in altgrad("sweep", "--jobs", "0").stderr


def test_a_text_with_brackets_is_shown_as_it_is(in_tmp_folder: Path) -> None:
    result = altgrad("train", *TINY, "--out", "a[red]b[/x]")
    assert "a[red]b[/x]" in result.stdout
    assert "next: altgrad report 'a[red]b[/x]'\n" in result.stderr


def test_the_next_commands_after_a_run_work(in_tmp_folder: Path) -> None:
    result = altgrad("train", *TINY, "--out", "my run", "--inject", "nan@1")
    commands = [line[6:] for line in result.stderr.splitlines() if line.startswith("next: ")]
    assert [shlex.split(command)[1] for command in commands] == ["report", "diagnose-checkpoint"]
    for command in commands:
        assert altgrad(*shlex.split(command)[1:]).exit_code == 0
    Path("my run/wandb/offline-run-1").mkdir(parents=True)
    again = altgrad("train", "--resume", "my run")
    assert "next: wandb sync 'my run/wandb/offline-run-1'" in again.stderr
    assert "next: " not in altgrad("train", *TINY, "-q", "--out", "quiet").stderr


def test_without_a_config_it_is_said_what_will_be_done(in_tmp_folder: Path) -> None:
    result = altgrad("train", *TINY[1:])
    assert result.exit_code == 0
    assert result.stderr.startswith("no config given, so this is base: 2 steps of E5M2 fp32")
    assert "into runs/base" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect-format", "BF16", "--codes"], ["inspect-format", "E3M4", "--json"]]
)
def test_a_reader_that_leaves_is_no_failure(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "altgrad_cli", *arguments]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_the_codes_of_two_formats_one_after_the_other() -> None:
    lines = altgrad("inspect-format", "E3M4", "--codes", "--compare", "E5M2").stdout.splitlines()
    assert [line for line in lines if line.startswith("codes of")] == ["codes of E3M4", "codes of E5M2"]
    assert sum(line.startswith("0xff") for line in lines) == 2
