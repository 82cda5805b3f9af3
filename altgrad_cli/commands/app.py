"""The table of contents of the command line.

To add a command, write its function and, if you like, ``EXAMPLES`` of its module (command lines shown under
the help of the command that they run, each tested to parse), and add its line to ``COMMANDS``. The function's
docstring is its help; it returns nothing or an exit code, and raises ``AltgradError`` for what the user
should read. Modules are loaded when their command is asked for, so they import torch inside functions.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import zip_longest
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from altgrad_cli import __version__
from altgrad_cli.commands.failures import exit_code_of
from altgrad_cli.errors import UsageError, nearest

COMMANDS: dict[str, str] = {
    "train": "train:train",
    "sweep": "sweep:sweep",
    "inspect-format": "inspect_format:inspect_format",
    "diagnose-checkpoint": "diagnose_checkpoint:diagnose_checkpoint",
    "report": "report:report",
    "claims": "published_claims:claims",
    "ls": "listings:ls",
    "configs": "listings:configs",
}
"""Command -> ``module:function`` below ``altgrad_cli.commands``, in the order of ``altgrad --help``."""

_EXIT_CODES = """\b
Exit codes:
    0  did its job; a format that collapses in a sweep is a result
    1  the program failed
    2  wrong usage, configuration or input
    3  a training run ended in collapse
  130  interrupted"""
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_VALUE = re.compile(r"[-+]?[.\d][^=]*$")
"""What an option with an optional value takes for one; anything else is the next word of the command line."""
Click: TypeAlias = Any
"""A command, a context or a formatter of the parser below Typer, which keeps its types to itself."""


def _load(name: str, entry: str) -> Click:
    """The command; its module is imported now."""
    module_name, _, function_name = entry.partition(":")
    module = import_module(f"altgrad_cli.commands.{module_name}")
    function = getattr(module, function_name)
    examples = [line for line in getattr(module, "EXAMPLES", ()) if line.split()[1] == name]
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(
        name=name,
        cls=AltgradCommand,
        help=_help_text(function.__doc__ or ""),
        epilog="\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in examples)]) if examples else None,
        context_settings=_CONTEXT,
    )(function)
    command = typer.main.get_command(single)
    command.name = name
    return command


def _help_text(docstring: str) -> str:
    """``docstring`` with every paragraph on one line: it wraps to the terminal, not to the source."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


class AltgradCommand(TyperCommand):
    """One command; a metavar that brings its own brackets is shown in the usage as it is written.

    An option with such a metavar may be given without its value, which is then "": a value begins with a
    digit, a point or a sign, and holds no "=", so that no configuration and no override is taken for one.
    """

    def parse_args(self, ctx: Click, args: list[str]) -> list[str]:
        """Take the words of the command line."""
        bare = [name for each in self.params if str(each.metavar).startswith("[") for name in each.opts]
        filled = []
        for word, following in zip_longest(args, args[1:], fillvalue=""):
            has_none = word.startswith("--") and word in bare and not _VALUE.match(following)
            filled += [f"{word}="] if has_none else [word]
        return super().parse_args(ctx, filled)

    def collect_usage_pieces(self, ctx: Click) -> list[str]:
        """The parts of the usage line."""
        own = [str(parameter.metavar) for parameter in self.params if str(parameter.metavar).startswith("[")]
        bracketed = {f"[{metavar}]...": metavar for metavar in own}
        return [bracketed.get(piece, piece) for piece in super().collect_usage_pieces(ctx)]


class AltgradGroup(TyperGroup):
    """The root command: finds commands lazily, and turns every failure into one message and an exit code."""

    def list_commands(self, ctx: Click) -> list[str]:
        """Their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Click, cmd_name: str) -> Click:
        """The command of that name, or None."""
        return _load(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Click, formatter: Click) -> None:
        """The list of commands, each with the whole first sentence of its help."""
        helps = {name: self.get_command(ctx, name).help or "" for name in COMMANDS}
        with formatter.section("Commands"):
            formatter.write_dl([(name, text.partition("\n\n")[0]) for name, text in helps.items()])

    def resolve_command(self, ctx: Click, args: list[str]) -> Click:
        """The command named by the first argument; a typo is answered with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            beginning = [known for known in COMMANDS if known.startswith(name)]
            guess = beginning[0] if len(beginning) == 1 else nearest(name, COMMANDS)
            raise UsageError(
                f"unknown command: {name}",
                allowed=", ".join(COMMANDS),
                hint=f"did you mean altgrad {guess}?" if guess else "see altgrad --help",
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Click) -> object:
        """The command's result; Ctrl-C is said in a word before Typer turns it into an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(exit_code_of(error)) from None

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any
    ) -> object:
        """Run, and leave the process with the exit code."""
        extra["standalone_mode"] = False
        try:
            result = super().main(args, prog_name or "altgrad", *rest, **extra)
            sys.stdout.flush()  # what cannot be written is an error of the command
        except Exception as error:  # noqa: BLE001 - the last place where a fault can become a message
            sys.exit(exit_code_of(error))
        sys.exit(result if isinstance(result, int) else 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"altgrad {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="altgrad",
    cls=AltgradGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=_EXIT_CODES,
    context_settings=_CONTEXT,
)


@app.callback(invoke_without_command=True)
def altgrad(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """A laboratory for exotic 8-bit number formats in training: what each one breaks, where, when and why."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)
