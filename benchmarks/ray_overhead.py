"""What carrying a sweep out by Ray costs against local processes (``--only ray_overhead``)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.section import Claim, Options, Section, table

LIMIT = 1.15
_SEEDS = 15
"""With fp32, frozen and bf16, four arms a seed."""
_SMALL = ("model.n_layer=2", "model.n_embd=64", "model.n_head=2", "data.tokenizer=bytes", "use_shadow=false")


def section(options: Options) -> Section:
    """The seconds of one sweep of short arms, from the command to its exit, by either executor."""
    seeds = 1 if options.quick else _SEEDS
    steps = 3 if options.quick else 100
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = {
            executor: _seconds(Path(folder) / executor, executor, seeds, steps, options.threads)
            for executor in ("local", "ray")
        }
    ratio = found["ray"] / found["local"]
    what = f"{4 * seeds} arms of {steps} steps, {options.threads} at a time"
    rows = [(name, f"{seconds:.1f} s", f"{seconds / found['local']:.2f}") for name, seconds in found.items()]
    lines = [
        "## Ray against local processes",
        "",
        f"`altgrad sweep --executor ...`, {what}; starting Ray and ending it included.",
        f"Load of the machine before: {load:.1f}.",
        "",
        *table(("executor", "the whole sweep", "ratio"), rows),
        "",
    ]
    return Section(lines=tuple(lines), claims=(Claim(f"{what}: Ray against local", ratio, LIMIT),))


def _seconds(out: Path, executor: str, seeds: int, steps: int, jobs: int) -> float:
    command = [sys.executable, "-m", "altgrad_cli", "sweep", "smoke", *_SMALL, f"max_steps={steps}"]
    command += ["--seeds", ",".join(map(str, range(seeds))), "--order", "e3m4", "--no-retries"]
    command += ["--executor", executor, "--jobs", str(jobs), "--out", str(out), "-q"]
    begun = time.perf_counter()
    subprocess.run(command, stdout=sys.stderr, timeout=1500, check=True)
    return time.perf_counter() - begun
