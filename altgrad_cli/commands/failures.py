"""The one place where a failure becomes a message and an exit code.

An error says what is wrong, where, what is allowed, and the next step on a ``hint:`` line of its own. A
user's mistake never shows a traceback; a fault of the program is one line that says where its traceback was
written (``ALTGRAD_DEBUG=1`` shows it at once).
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from altgrad_cli import __version__
from altgrad_cli.commands.console import talk_console
from altgrad_cli.errors import AltgradError, UsageError, WriteError
from altgrad_cli.files import reason_of
from altgrad_cli.notation import printable

OK = 0
FAILED = 1
COLLAPSED = 3
INTERRUPTED = 130
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def exit_code_of(error: BaseException) -> int:
    """Say what went wrong on stderr, and return the exit code that goes with it."""
    if isinstance(error, AltgradError):
        if os.environ.get("ALTGRAD_DEBUG") == "1":
            traceback.print_exception(error)
        render_error(error)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        render_error(WriteError(f"cannot write {error.filename or 'the output'}: {reason_of(error)}"))
        return FAILED
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        talk_console().print("interrupted")
        return INTERRUPTED
    if isinstance(error, typer.TyperException):
        render_error(_usage_error(error))
        return error.exit_code
    render_error(_program_fault(error))
    return FAILED


def render_error(error: AltgradError) -> None:
    """Print the parts of ``error`` that it has: error, where, allowed, and after a blank line the hint."""
    console = talk_console()
    _print_part(console, "error:", error.message, "bold red")
    for label, text in (("  where:", error.where), ("  allowed:", error.allowed)):
        if text is not None:
            _print_part(console, label, text)
    if error.hint is not None:
        console.print()
        _print_part(console, "hint:", error.hint, "bold cyan")


def _print_part(console: Console, label: str, text: str, style: str = "") -> None:
    content = Text(printable(text))
    if not console.is_terminal:  # one line a part, however long: it may be searched for
        console.print(Text(f"{label} ") + content, soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_row(Text(label, style), content)
    console.print(grid)


def _usage_error(error: typer.TyperException) -> UsageError:
    """What the argument parser refused, in the form of our own errors."""
    message, _, possible = error.format_message().removesuffix(".").partition(" (Possible options: ")
    alternatives = possible.removesuffix(")").replace(", ", " or ")
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(message, hint=f"did you mean {alternatives}?" if alternatives else None)
    options = [name for parameter in context.command.params for name in parameter.opts if name[:2] == "--"]
    return UsageError(
        message,
        where=context.command_path,
        allowed=", ".join([*options, "--help"]) if message.startswith("No such option") else None,
        hint=f"did you mean {alternatives}?" if alternatives else f"see {context.command_path} --help",
    )


def _program_fault(error: BaseException) -> AltgradError:
    """One line for a fault of the program, after its traceback was shown or written to a file."""
    what = f"{type(error).__name__}: {error}".strip().rstrip(":")
    message = f"altgrad failed unexpectedly: {what.splitlines()[0]}"
    if os.environ.get("ALTGRAD_DEBUG") == "1":
        traceback.print_exception(error)
        return AltgradError(message)
    try:
        descriptor, name = tempfile.mkstemp(prefix="altgrad-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"altgrad {__version__}: {sys.argv}\n")
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)  # a full disk may be the very fault: better shown than lost
        return AltgradError(message)
    return AltgradError(message, where=f"the traceback is in {name}", hint="ALTGRAD_DEBUG=1 shows it at once")
