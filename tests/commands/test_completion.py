"""Completion, asked for as the shells ask: through the environment, bash with its own way to split words."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from altgrad_cli.commands.app import app
from altgrad_cli.config.loading import shipped_configs
from altgrad_cli.formats.names import FORMAT_REGISTRY

FORMATS = list(FORMAT_REGISTRY)


def bash(*words: str) -> list[str]:
    """What bash is offered for the last of ``words``, which it has split at every ``=`` already."""
    environment = {
        "_ALTGRAD_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["altgrad", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner(env=environment).invoke(app, prog_name="altgrad")
    assert result.exit_code == 0, result.output
    return result.stdout.split()


def zsh(line: str) -> str:
    environment = {"_ALTGRAD_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"altgrad {line}"}
    return CliRunner(env=environment).invoke(app, prog_name="altgrad").stdout


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_configs_and_keys(command: str) -> None:
    assert bash(command, "e7") == ["e7m0_uniform"]
    assert bash(command, "gpu/") == [name for name in shipped_configs() if name.startswith("gpu/")]
    assert bash(command, "base", "learn") == ["learning_rate=0.0006"]
    assert bash(command, "optimizer.be") == ["optimizer.betas=[0.9,0.95]"]
    assert bash(command, "smoke", "no_such") == [], "bash goes on with the names of files"


def test_the_values_of_a_key_however_the_shell_splits_it() -> None:
    assert bash("train", "optimizer.schedule", "=") == ["constant", "cosine", "linear"]
    assert bash("train", "base", "optimizer.schedule", "=", "l") == ["linear"]
    assert bash("train", "use_shadow", "=") == ["true", "false"]
    assert bash("train", "runtime.device", "=", "c") == ["cpu", "cuda"]
    assert bash("train", "fp8_format", "=", "e7") == ["e7m0"]
    assert bash("train", "fp8_format", "=") == FORMATS
    assert '"optimizer.schedule=cosine"' in zsh("train optimizer.schedule=c")
    assert '"fp8_format=E7M0"' in zsh("train fp8_format=E7")


@pytest.mark.parametrize(
    "words",
    [["inspect-format"], ["inspect-format", "E3M4", "--compare"], ["diagnose-checkpoint", "--format"]],
)
def test_formats(words: list[str]) -> None:
    assert bash(*words, "E5") == [name for name in FORMATS if name.startswith("E5")]


def test_a_list_of_formats_is_completed_item_by_item() -> None:
    assert bash("sweep", "--order", "e5m2,e7") == ["e5m2,e7m0"]


def test_an_axis_is_offered_with_all_its_values() -> None:
    assert bash("sweep", "--set", "precision.scaling.rec") == ["precision.scaling.recipe=none,amax,delayed"]
