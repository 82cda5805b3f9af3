"""How long the whole sweep takes, as ``make sweep`` runs it; only where asked for (``--only sweep``)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.section import Claim, Options, Section

LIMIT_MINUTES = 6.0
_ORDER = "e5m2,e3m4,e1m6,e0m7,e7m0"


def section(options: Options) -> Section:
    """The minutes of one sweep, from the command to its exit."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "altgrad_cli", "sweep", "--no-retries", "--order", _ORDER]
        command += ["--out", str(Path(folder) / "sweep"), *(["max_steps=3"] if options.quick else [])]
        begun = time.perf_counter()
        done = subprocess.run(command, stdout=sys.stderr, timeout=3000)
        minutes = (time.perf_counter() - begun) / 60
    lines = [
        "## The whole sweep",
        "",
        f"`altgrad sweep --no-retries --order {_ORDER}`: {minutes:.1f} minutes,",
    ]
    lines += [f"exit code {done.returncode}.", ""]
    return Section(lines=tuple(lines), claims=(Claim("the whole sweep", minutes, LIMIT_MINUTES, "min"),))
