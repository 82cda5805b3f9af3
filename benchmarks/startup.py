"""How long until something is seen: ``altgrad --help``, and the first step of ``altgrad train``.

Each measurement is a process of its own; the two sides of a comparison take turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.section import Claim, Options, Section, table
from benchmarks.timing import interleave

HELP_LIMIT, TRAIN_LIMIT = 0.25, 3.0  # seconds

_HELP = "import sys; sys.argv = ['altgrad', '--help']\nfrom altgrad_cli.__main__ import main\nmain()"
_LIBRARIES = "import typer, rich, rich.console, rich.table, rich.panel"
_TRAIN = """
import sys
import torch
print("torch is imported", flush=True)
sys.argv = ["altgrad", "train", "--out", sys.argv[1], "max_steps=1", *sys.argv[2:]]
from altgrad_cli.__main__ import main
main()
"""


def run(code: str) -> None:
    """Run Python ``code`` in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)


def seconds_to_first_step(*overrides: str) -> float:
    """Seconds from torch's import to the line about step 1, as a reader of the output sees them.

    Raises:
        RuntimeError: the run ended without one.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _TRAIN, str(Path(folder) / "run"), *overrides]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            assert child.stdout is not None
            imported = None
            took = None
            for line in child.stdout:
                if line.startswith("torch is imported"):
                    imported = time.perf_counter()
                elif line.startswith("step 1/") and imported is not None and took is None:
                    took = time.perf_counter() - imported
        if took is None:
            raise RuntimeError(f"no first step; exit code {child.returncode}")
        return took


def section(options: Options) -> Section:
    """Both promises about starting."""
    rounds = 2 if options.quick else 15
    measured = interleave(
        {"`altgrad --help`": lambda: run(_HELP), "importing typer and rich": lambda: run(_LIBRARIES)},
        rounds=rounds,
    )
    ours, theirs = measured["`altgrad --help`"], measured["importing typer and rich"]
    over = statistics.median(a - b for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    tiny = ("model.n_layer=1", "runtime.evaluation_batches=1") if options.quick else ()
    first = [
        seconds_to_first_step(f"runtime.threads={options.threads}", *tiny)
        for _ in range(1 if options.quick else 5)
    ]
    rows = [(name, f"{times.median:.2f}", _range(times.seconds)) for name, times in measured.items()]
    rows.append(
        (
            "`altgrad train`, from torch's import to its first step",
            f"{statistics.median(first):.2f}",
            _range(first),
        )
    )
    lines = [
        "## Starting",
        "",
        "A process each, taking turns. The first step's seconds contain the corpus from its cache, the",
        "network, the evaluation before the first step and the step itself.",
        "",
        *table(("what", "median, s", "least to most"), rows),
        "",
    ]
    claims = (
        Claim("`altgrad --help` over importing typer and rich", over, HELP_LIMIT, "s"),
        Claim(
            "first step of `altgrad train` after torch is imported",
            statistics.median(first),
            TRAIN_LIMIT,
            "s",
        ),
    )
    return Section(lines=tuple(lines), claims=claims)


def _range(seconds: list[float] | tuple[float, ...]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"
