"""A user's mistakes, through the whole command: exit 2, one message, a way on, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from altgrad_cli.commands.app import app

COMMANDS = ("train", "sweep")


def refused(*arguments: str) -> str:
    """stderr of a command line that must be refused."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["e7m0_unifrom"], "hint: did you mean e7m0_uniform?"),
        (["no/such/file.yaml"], "there is no such configuration file"),
        (["."], "a folder was given"),
        (["base", "smoke"], "one configuration is expected, not 2"),
        (["lr=1"], "hint: did you mean learning_rate?"),
        (["optimizer.warmpu_steps=1"], "hint: did you mean optimizer.warmup_steps?"),
        (["fp8_format=E9M9"], "command line: fp8_format"),
        (["fp8_format="], "the format's name is empty"),
        (["learning_rate=fast"], "allowed: a finite number"),
        (["learning_rate=1e300"], "allowed: a positive number, 1.18e-38 to 3.4e+38"),
        (["optimizer.weight_decay=1e300"], "1.18e-38 to 3.4e+38, or 0"),
        (["optimizer.gradient_clip=0"], "or null for no clip"),
        (["max_steps=0"], "command line: max_steps"),
        (["precision.regime=unifrom"], "hint: did you mean uniform?"),
        (["data.path=/no/such/corpus.jsonl", "max_steps=1"], "/no/such/corpus.jsonl"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_on_the_command_line(
    command: str, arguments: list[str], said: str, in_tmp_folder: Path
) -> None:
    assert said in refused(command, *arguments)
    assert not any(log.read_text() for log in in_tmp_folder.rglob("events.jsonl")), "nothing was run"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: [1\n", "mine.yaml:2:1"),
        (b"seed: 1\nsede: 2\n", "mine.yaml:2: sede"),
        (b"\xff\xfe", "not a text in UTF-8"),
        (b"extends: mine.yaml\n", "extends itself"),
        (b"fp8_format: e3m\n", "mine.yaml:1: fp8_format"),
    ],
)
def test_mistakes_in_a_file(command: str, content: bytes, said: str, in_tmp_folder: Path) -> None:
    (in_tmp_folder / "mine.yaml").write_bytes(content)
    assert said in refused(command, "mine.yaml")


def test_an_unknown_format_in_the_order_of_a_sweep(in_tmp_folder: Path) -> None:
    assert "E9M9" in refused("sweep", "--order", "e5m2,E9M9").upper()


@pytest.mark.parametrize("name", ["", "E9M9", "E-1M8", "E3M4:bias=abc", "E4M3:fnuz:ieee", "e3n4"])
def test_an_unknown_format_to_inspect(name: str) -> None:
    said = refused("inspect-format", name)
    assert "  allowed: " in said
