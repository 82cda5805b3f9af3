"""The two voices of the command line: data goes to stdout, talk (progress, notes, errors) to stderr.

``--json`` is one document on stdout, strict JSON, with its schema's name first. Both voices honour
``NO_COLOR`` and write plain text where they are not connected to a terminal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.text import Text

PIPED_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where no terminal says how wide it may be."""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command that trains speaks, and what it counts as a failure."""

    as_json: bool = False
    quiet: bool = False
    strict: bool = False


def data_console() -> Console:
    """Where a command's result goes: stdout."""
    return _console(to_stderr=False)


def talk_console() -> Console:
    """Where everything else goes: stderr."""
    return _console(to_stderr=True)


def _console(*, to_stderr: bool) -> Console:
    # Made anew for each use, since a test (or a shell) may exchange the streams and the environment.
    # No markup: a text with brackets (a path, a list, a schema of arguments) is shown as it is.
    console = Console(stderr=to_stderr, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console


def say(text: str) -> None:
    """One line of talk, never wrapped."""
    talk_console().print(Text(text), soft_wrap=True)


def print_json(schema: str, body: Mapping[str, object]) -> None:
    """Write ``{"schema": schema, **body}`` to stdout.

    ``schema`` is ``altgrad.<command>/<version>``; the version rises when a key changes its meaning or goes.
    Null means not measured; non-finite numbers are the strings "NaN", "Infinity", "-Infinity".
    """
    from altgrad_cli.training.events import to_json_value

    document = {"schema": schema, **to_json_value(body)}
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
