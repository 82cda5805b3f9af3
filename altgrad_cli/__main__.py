"""``python -m altgrad_cli`` and the ``altgrad`` script."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """A standard stream whose reader may leave: under ``| head``, or when the terminal is closed, a command
    does its job to the end.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._of_terminal = self.isatty()

    def write(self, data: ReadableBuffer, /) -> int:
        """The bytes written, those that nobody reads any more included."""
        try:
            return super().write(data)
        except OSError as error:
            gone = isinstance(error, BrokenPipeError) or (self._of_terminal and error.errno == errno.EIO)
            if not gone:
                raise
            return memoryview(data).nbytes


def _reopened(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """``stream`` anew: it survives its reader, and a character it cannot show becomes a ``?``."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno())),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
    )


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, _reopened(stream))

    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # of the shell of a script, for what is behind a "&"
        signal.signal(signal.SIGINT, signal.default_int_handler)

    from altgrad_cli.commands.app import app

    try:
        app(prog_name="altgrad")
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # told already; what waits in the buffer must not fail once more at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
