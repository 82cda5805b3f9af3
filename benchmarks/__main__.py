"""Measure everything side by side and write RESULTS.md: ``make bench``.

make bench                                  all of it, some 20 minutes on two idle cores
make bench BENCH_ARGS="--quick"             through everything in two minutes; no figure counts
make bench BENCH_ARGS="--only steps,memory" some parts, to the terminal
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

import torch

from benchmarks import environment
from benchmarks.part import ON_REQUEST, PARTS, add_options, measure, read_options
from benchmarks.section import Options, Section, claims_table

RESULTS = Path(__file__).parent / "RESULTS.md"
KNOWN = ", ".join((*PARTS, *ON_REQUEST))


def main() -> None:
    """Read the options, measure part by part, write what there is after each."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {KNOWN}")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"default: {RESULTS.name} beside this program for a whole run, else the terminal",
    )
    asked = parser.parse_args()
    wanted = [name for name in asked.only.split(",") if name]
    if unknown := set(wanted) - {*PARTS, *ON_REQUEST}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {KNOWN}")
    options = read_options(asked)
    whole = not asked.quick and wanted == list(PARTS)
    out: Path | None = asked.out or (RESULTS if whole else None)
    torch.set_num_threads(options.threads)
    done: list[Section] = []
    for name in wanted:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        done.append(measure(name, options))
        print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if out is not None:
            out.write_text(render(done, options))
    print(f"written: {out}" if out else render(done, options))


def render(done: list[Section], options: Options) -> str:
    """The report as Markdown."""
    left_out = dict(environment.not_installed())
    for part in done:
        left_out |= part.left_out
    claims = [claim for part in done for claim in part.claims]
    lines = [
        "# Benchmarks",
        "",
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC by `make bench`.",
        *(["", "**A quick run: no figure here counts.**"] if options.quick else []),
        "",
        "In one run, interleaved: every contestant once a round, in an order that changes. Quoted are the",
        "median and the quartiles of the rounds' ratios. **Compare ratios, and only inside one table**;",
        "differences under about 5 % are not resolved on such a machine.",
        "",
        *(f"- {line}" for line in environment.describe()),
        *(f"- not measured: {name} ({why})" for name, why in left_out.items()),
        "",
        "## What was promised",
        "",
        *claims_table(claims),
        "",
        *(line for part in done for line in part.lines),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
