"""The command line as a user meets it: help, typos, messages, exit codes, and which stream says what."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from altgrad_cli import __version__
from altgrad_cli.commands.app import COMMANDS, app
from altgrad_cli.commands.arguments import split_config_and_overrides
from altgrad_cli.commands.console import print_json
from altgrad_cli.errors import AltgradError, FormatError, UsageError


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(app, list(arguments))


@pytest.fixture
def rehearse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``altgrad rehearse``, a command that does what the test says."""

    def _rehearse(act: Callable[[], Any], **environment: str) -> Result:
        def rehearse() -> Any:
            """Rehearse a failure."""
            return act()

        module = ModuleType("altgrad_cli.commands.rehearse")
        module.rehearse = rehearse  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "rehearse", "rehearse:rehearse")
        return run("rehearse", **environment)

    return _rehearse


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# --- help and names -----------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    for name in COMMANDS:
        assert f" {name} " in result.stdout
    assert "130  interrupted" in result.stdout
    assert run("-h").stdout == result.stdout


def test_without_a_command_the_help_is_shown_as_wrong_usage() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: altgrad" in result.stdout


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"altgrad {__version__}\n")


@pytest.mark.parametrize("typed", ["rehears", "rehaerse", "reh"])
def test_a_typo_in_a_command_names_the_nearest(
    typed: str, rehearse: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "rehearse", "rehearse:rehearse")
    result = run(typed)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: unknown command: {typed}\n")
    assert result.stderr.endswith("\n\nhint: did you mean altgrad rehearse?\n")


def test_an_unknown_option_names_the_nearest() -> None:
    result = run("--verison")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: No such option: --verison\n")
    assert result.stderr.endswith("hint: did you mean --version?\n")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_one_line_description_and_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: altgrad {name}" in result.stdout


def _examples() -> list[str]:
    modules = {entry.partition(":")[0] for entry in COMMANDS.values()}
    loaded = [__import__(f"altgrad_cli.commands.{name}", fromlist=["EXAMPLES"]) for name in sorted(modules)]
    return [line for module in loaded for line in getattr(module, "EXAMPLES", ())]


@pytest.mark.parametrize("line", _examples())
def test_every_example_in_the_help_parses(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "altgrad"
    group: Any = typer.main.get_command(app)
    group.get_command(None, name).make_context(name, arguments)


# --- failures -----------------------------------------------------------------------------------------


def test_an_error_is_said_in_four_parts_on_stderr(rehearse: Callable[..., Result]) -> None:
    error = FormatError(
        "no such format: E9M9", where="format name", allowed="ExMy", hint="did you mean E5M2?"
    )
    result = rehearse(raising(error))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: no such format: E9M9\n  where: format name\n  allowed: ExMy\n\nhint: did you mean E5M2?\n"
    )


def test_parts_that_are_absent_are_left_out(rehearse: Callable[..., Result]) -> None:
    result = rehearse(raising(AltgradError("the disk is full")))
    assert (result.exit_code, result.stderr) == (1, "error: the disk is full\n")


def test_a_long_message_stays_one_line_where_nobody_watches(rehearse: Callable[..., Result]) -> None:
    allowed = ", ".join(f"key_{n}" for n in range(100))
    result = rehearse(raising(UsageError("unknown key", allowed=allowed)), COLUMNS="60")
    assert f"  allowed: {allowed}\n" in result.stderr


def test_a_long_message_wraps_on_a_terminal_and_loses_nothing(rehearse: Callable[..., Result]) -> None:
    words = [f"key_{n}" for n in range(100)]
    result = rehearse(
        raising(UsageError("unknown key", allowed=" ".join(words))),
        FORCE_COLOR="1",
        NO_COLOR="1",
        COLUMNS="60",
    )
    lines = result.stderr.splitlines()
    assert max(map(len, lines)) <= 60
    assert result.stderr.split()[-100:] == words


def test_colour_only_where_wanted(rehearse: Callable[..., Result]) -> None:
    act = raising(UsageError("no"))
    assert "\x1b[" not in rehearse(act).stderr
    assert "\x1b[1;31m" in rehearse(act, FORCE_COLOR="1", TERM="xterm").stderr
    assert "\x1b[3" not in rehearse(act, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm").stderr


def test_markup_and_control_characters_in_a_message_are_shown_not_obeyed(
    rehearse: Callable[..., Result],
) -> None:
    result = rehearse(raising(UsageError("[bold]no[/] \x1b]0;title\x07 \udcff :smile:")))
    assert result.stderr == "error: [bold]no[/] \\x1b]0;title\\x07 \\udcff :smile:\n"


def test_ctrl_c_is_130(rehearse: Callable[..., Result]) -> None:
    result = rehearse(raising(KeyboardInterrupt()))
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_the_program_s_own_fault_is_one_line_and_a_file(
    rehearse: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = rehearse(raising(ZeroDivisionError("by zero\nand more")))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: altgrad failed unexpectedly: ZeroDivisionError: by zero\n")
    assert "Traceback" not in result.stderr
    (written,) = tmp_path.glob("altgrad-traceback-*.txt")
    assert str(written) in result.stderr
    assert "Traceback (most recent call last)" in written.read_text(encoding="utf-8")


def test_the_traceback_is_shown_when_asked_for(rehearse: Callable[..., Result]) -> None:
    for error in (ZeroDivisionError("by zero"), UsageError("no")):
        result = rehearse(raising(error), ALTGRAD_DEBUG="1")
        assert "Traceback (most recent call last)" in result.stderr


def test_the_traceback_is_shown_when_it_cannot_be_written(
    rehearse: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    result = rehearse(raising(ZeroDivisionError("by zero")))
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_s_result_is_its_exit_code(
    rehearse: Callable[..., Result], returned: int | None, code: int
) -> None:
    assert rehearse(lambda: returned).exit_code == code


# --- helpers of the commands --------------------------------------------------------------------------


def test_config_and_overrides_are_told_apart() -> None:
    assert split_config_and_overrides([]) == (None, [])
    assert split_config_and_overrides(["a=1", "e7m0_uniform", "b=c=d"]) == ("e7m0_uniform", ["a=1", "b=c=d"])
    with pytest.raises(UsageError, match="one configuration is expected, not 2: one, two"):
        split_config_and_overrides(["one", "two"])


def test_json_is_strict_and_names_its_schema(rehearse: Callable[..., Result]) -> None:
    body = {"values": [1.0, float("nan"), float("-inf")], "missing": None}
    result = rehearse(lambda: print_json("altgrad.rehearse/1", body))
    assert json.loads(result.stdout) == {
        "schema": "altgrad.rehearse/1",
        "values": [1.0, "NaN", "-Infinity"],
        "missing": None,
    }
    assert result.stdout.startswith('{\n  "schema"')
