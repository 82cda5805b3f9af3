"""One part of the report, in a process of its own: ``python -m benchmarks.part steps --json FILE``.

Alone in its process, a part finds no memory, threads or compiled code of another, and takes nothing with it
when it dies.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

from benchmarks.section import Claim, Options, Section

PARTS = ("quantizers", "block_grids", "steps", "memory", "scaling", "startup")
ON_REQUEST = ("sweep", "ray_overhead", "many_arms", "observing")
HUGE_PAGES = {"quantizers": "1", "block_grids": "1"}
"""Rounding 64 MB into a fresh tensor is dominated by page faults, for everybody: huge pages, where the kernel
gives them, show the tools instead. The other parts run as a user's program does."""
LIMIT_SECONDS = 3600


def measure(name: str, options: Options) -> Section:
    """Measure part ``name`` in a child process; one that breaks says so in its place."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "section.json"
        command = [sys.executable, "-m", "benchmarks.part", name, "--json", str(file)]
        command += ["--threads", str(options.threads)]
        command += ["--quick"] if options.quick else []
        command += [] if options.compiled else ["--no-compile"]
        pages = {"THP_MEM_ALLOC_ENABLE": HUGE_PAGES.get(name, "0")}
        if not options.quick:  # a first step's seconds are those of a machine that has compiled nothing yet
            pages["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        try:
            # What it says goes to the error stream, line by line: the report alone may be on the output.
            subprocess.run(
                command, check=True, stdout=sys.stderr, env=os.environ | pages, timeout=LIMIT_SECONDS
            )
            return read(file.read_text())
        except (subprocess.SubprocessError, OSError) as error:
            said = (
                f"exit code {error.returncode}"
                if isinstance(error, subprocess.CalledProcessError)
                else str(error)
            )
            return Section(lines=(f"## {name}: not measured", "", f"It ended with {said}.", ""))


def read(text: str) -> Section:
    """The section that ``write`` wrote."""
    found = json.loads(text)
    claims = tuple(Claim(**claim) for claim in found["claims"])
    return Section(lines=tuple(found["lines"]), claims=claims, left_out=found["left_out"])


def write(section: Section) -> str:
    """``section`` as JSON."""
    return json.dumps(asdict(section))


def with_compiler(section: Section, options: Options) -> Section:
    """``section``, saying so where our compiled ways fell back to the eager ones."""
    from altgrad_cli.training.passes.compiled import missing_compiler

    why = missing_compiler() if options.compiled else None
    if why is None:
        return section
    return replace(section, left_out=section.left_out | {"compiled ways (they ran uncompiled)": why})


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every part understands."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="sizes at which no figure counts")
    parser.add_argument("--no-compile", action="store_true", help="leave out what torch.compile builds")


def read_options(asked: argparse.Namespace) -> Options:
    """What ``add_options`` asked for."""
    return Options(threads=asked.threads, quick=asked.quick, compiled=not asked.no_compile)


def main() -> None:
    """Measure one part here and write its section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*PARTS, *ON_REQUEST))
    parser.add_argument("--json", type=Path, required=True)
    add_options(parser)
    asked = parser.parse_args()
    options = read_options(asked)
    import torch

    logging.basicConfig(format="%(message)s")
    torch.set_num_threads(options.threads)
    section: Callable[[Options], Section] = import_module(f"benchmarks.{asked.name}").section
    asked.json.write_text(write(with_compiler(section(options), options)))


if __name__ == "__main__":
    main()
