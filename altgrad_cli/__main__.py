"""``python -m altgrad_cli`` and the ``altgrad`` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a "?", not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    from altgrad_cli.commands.app import app

    app(prog_name="altgrad")


if __name__ == "__main__":
    main()
