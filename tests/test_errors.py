"""An error that a program of one's own does not catch shows all of its parts."""

from __future__ import annotations

import subprocess
import sys


def test_a_traceback_ends_with_the_hint() -> None:
    code = (
        "from altgrad_cli.errors import UsageError\n"
        "error = UsageError('it is sharded', where='observe', hint='one')\n"
        "error.hint = 'wrap it'  # as who knows more may say\n"
        "raise error\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-3:] == [
        "altgrad_cli.errors.UsageError: it is sharded",
        "where: observe",
        "hint: wrap it",
    ]
