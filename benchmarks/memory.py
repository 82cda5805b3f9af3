"""The memory a training run takes: one process for each contestant, its peak above what importing took.

    python -m benchmarks.memory "plain PyTorch"        one contestant, in this process: what a child does

The peak is the kernel's high-water mark of resident memory (VmHWM of /proc/self/status; unlike ru_maxrss it
starts anew with the program). It is read once everything is imported and once the steps are taken; the
difference is the run's: weights, moments, gradients, activations, and what the allocator keeps. torch's
optimizer loads more when first used, so everybody takes a throwaway step with it before the first reading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.section import Claim, Options, Section, table

LIMIT = 1.3


@dataclass(frozen=True, slots=True)
class Peak:
    """Resident memory of one process in MiB: its high-water mark after importing, and at the end."""

    imported: float
    whole: float

    @property
    def run(self) -> float:
        """What the run added."""
        return self.whole - self.imported


def high_water() -> float:
    """The most resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # where there is no /proc, as on macOS, which counts bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def names(*, compiled: bool) -> list[str]:
    """The contestants, by their names in ``networks.builders``; the first is what others are held to."""
    from benchmarks.networks import EVERYTHING, MONITORED, PLAIN, STANDARD, UNIFORM

    return [
        PLAIN,
        STANDARD,
        UNIFORM,
        MONITORED,
        EVERYTHING,
        *([f"compiled: {MONITORED}"] if compiled else []),
    ]


def warm_up() -> None:
    """Let torch load what it loads when first used, for everybody: its optimizers bring half the compiler."""
    import torch

    weight = torch.nn.Parameter(torch.ones(8, 8))
    optimizer = torch.optim.AdamW([weight])
    torch.nn.functional.linear(weight.detach(), weight).sum().backward()
    optimizer.step()


def measure_here(name: str, *, quick: bool, threads: int, steps: int) -> Peak:
    """Take ``steps`` steps of one contestant in this process."""
    from benchmarks.networks import LARGE, TINY, builders

    build = builders(TINY if quick else LARGE, threads, compiled=name.startswith("compiled"))[name]
    warm_up()
    imported = high_water()
    step = build()
    for _ in range(steps):
        step()
    return Peak(imported, high_water())


def measure_in_child(name: str, options: Options, steps: int) -> Peak:
    """The same in a process of its own.

    Raises:
        subprocess.CalledProcessError: the contestant failed there.
    """
    command = [sys.executable, "-m", "benchmarks.memory", name]
    command += [
        "--threads",
        str(options.threads),
        "--steps",
        str(steps),
        *(["--quick"] if options.quick else []),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def section(options: Options) -> Section:
    """The table of peaks at 10.8 M parameters."""
    from benchmarks.networks import EVERYTHING, MONITORED, PLAIN

    repeats, steps = (1, 2) if options.quick else (3, 3)
    peaks: dict[str, list[Peak]] = {name: [] for name in names(compiled=options.compiled)}
    left_out = {}
    for _ in range(repeats):
        for name, found in peaks.items():
            try:
                found.append(measure_in_child(name, options, steps))
            except (subprocess.SubprocessError, ValueError) as error:
                said = getattr(error, "stderr", None) or str(error)
                left_out[f"memory of {name}"] = said.strip().splitlines()[-1][:160]
    run = {name: statistics.median(peak.run for peak in found) for name, found in peaks.items() if found}
    whole = {name: statistics.median(peak.whole for peak in found) for name, found in peaks.items() if found}
    head = ("training", "the run's, MiB", "times plain", "whole process, MiB", "times plain")
    rows = [
        (
            name,
            f"{run[name]:.0f}",
            f"{run[name] / run[PLAIN]:.2f}",
            f"{whole[name]:.0f}",
            f"{whole[name] / whole[PLAIN]:.2f}",
        )
        for name in run
    ]
    size = "a tiny model: no figure here counts" if options.quick else "10.8 M parameters, batch 12 x 256"
    lines = [
        f"## Memory, {size}",
        "",
        f"Peak resident memory of a process that takes {steps} steps, median of {repeats}. The run's is what",
        "came on top of the peak after importing everything: weights, moments, gradients, activations and",
        "what the allocator keeps; of the compiled one also torch's compiler.",
        "",
        *table(head, rows),
        "",
    ]
    claims = [
        Claim(f"peak memory of the run, {name}, to plain", run[name] / run[PLAIN], LIMIT)
        for name in run
        if name not in (PLAIN, EVERYTHING) and not name.startswith("compiled")
    ]
    if EVERYTHING in run and MONITORED in run:
        lines += [f"The shadow adds {run[EVERYTHING] - run[MONITORED]:.0f} MiB.", ""]
    return Section(lines=tuple(lines), claims=tuple(claims), left_out=left_out)


def main() -> None:
    """One contestant, here; its peak as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    peak = measure_here(options.name, quick=options.quick, threads=options.threads, steps=options.steps)
    print(json.dumps({"imported": peak.imported, "whole": peak.whole}))


if __name__ == "__main__":
    main()
