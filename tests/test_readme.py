"""README and CONTRIBUTING keep their word: the first commands are there, and every command line parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from altgrad_cli.commands.app import app

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL_WORDS = ("|", ">", "&&", ";", "2>")


def command_lines(text: str, program: str) -> list[list[str]]:
    """The arguments of every line in a fenced block that runs ``program``, up to a pipe or the like."""
    found = []
    for block in _FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.lstrip("$ ").startswith(f"{program} "):
                continue
            words = shlex.split(line.lstrip("$ "), comments=True)
            end = next((n for n, word in enumerate(words) if word in _SHELL_WORDS), len(words))
            found.append(words[1:end])
    return found


def _documented(program: str) -> list[list[str]]:
    return [
        words
        for name in DOCUMENTS
        for words in command_lines((REPOSITORY / name).read_text(encoding="utf-8"), program)
    ]


def test_the_two_commands_that_do_everything_come_first() -> None:
    first = _FENCED.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()][:2] == ["make sweep", "make test"]


@pytest.mark.parametrize("words", _documented("altgrad"), ids=" ".join)
def test_every_documented_command_parses(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-"):
        assert words[0] in {option for parameter in group.params for option in parameter.opts} | {"--help"}
        return
    group.get_command(None, words[0]).make_context(words[0], words[1:])


def test_every_documented_make_target_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {word for words in _documented("make") for word in words if "=" not in word}
    assert named
    assert named <= targets


def test_command_lines_are_found() -> None:
    text = "x\n```sh\n$ altgrad train a=1 \\\n  b=2 | tee log # note\nmake test\n```\naltgrad not this\n"
    assert command_lines(text, "altgrad") == [["train", "a=1", "b=2"]]
