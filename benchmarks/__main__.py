"""``make bench``: measure, print, write RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

# Large fresh tensors are dominated by page faults; huge pages are the same help for every contestant.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from altgrad_cli.formats import parse_format
from benchmarks import environment, quantizers
from benchmarks.timing import Measured, interleave

RESULTS = Path(__file__).parent / "RESULTS.md"
SIZES = {"16 M values": (16_000_000,), "1 M values": (1 << 20,), "a 768 x 3072 weight": (768, 3072)}
FORMATS = ("E5M2", "E4M3", "E3M4", "E1M6", "E7M0", "BF16")


def main() -> None:
    """Read the options, measure, write the tables."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each slow contestant")
    parser.add_argument("--quick", action="store_true", help="few rounds, no slow peers, no 16 M")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sections = [
        quantizer_section(shape, title, options)
        for title, shape in SIZES.items()
        if not (options.quick and shape == (16_000_000,))
    ]
    sections.append(format_section(options))
    head = [
        "# Benchmarks",
        "",
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC by `make bench`.",
        "Every contestant once a round, interleaved; medians of the rounds. **Compare ratios, and only",
        "inside one table**; differences under about 5 % are not resolved on such a machine.",
        "",
        "Our rounding divides by a scale that is no power of two and multiplies back; no peer has a scale.",
        "",
        *(f"- {line}" for line in environment.describe()),
        *(f"- not measured: {name} ({why})" for name, why in quantizers.missing.items()),
        "",
    ]
    RESULTS.write_text("\n".join([*head, *sections]))
    print(f"written: {RESULTS}")


def quantizer_section(shape: tuple[int, ...], title: str, options: argparse.Namespace) -> str:
    """One table: every contestant on one size, E5M2."""
    fmt = parse_format("E5M2")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = quantizers.contestants(x, fmt.name, compiled=not options.no_compile, slow=not options.quick)
    rounds = 5 if options.quick else options.rounds
    measured = interleave({c.name: c.call for c in found}, rounds=rounds, seconds_each=options.seconds)
    wrong = {
        c.name: quantizers.disagreement(c, x, fmt)
        for c in found
        if not c.name.startswith(("altgrad", "copy")) and "stochastic" not in c.name
    }
    return _table(f"## Rounding {title} to E5M2", measured, x.numel(), wrong)


def format_section(options: argparse.Namespace) -> str:
    """One table: our ways over formats, 1 M values."""
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(2))
    lines = [
        "## Every format, 1 M values (ratio to a copy)",
        "",
        "| format | eager | counted | stochastic | torch | ml_dtypes |",
        "|---|---|---|---|---|---|",
    ]
    for name in FORMATS:
        found = quantizers.contestants(x, name, compiled=False, slow=False)
        measured = interleave({c.name: c.call for c in found}, rounds=9, seconds_each=1.0)
        copy = measured["copy"]

        def cell(start: str, measured: dict[str, Measured] = measured, copy: Measured = copy) -> str:
            hits = [m for key, m in measured.items() if key.startswith(start)]
            return f"{hits[0].ratio(copy)[1]:.1f}" if hits else "–"

        ways = ("given output", "given output, all counters", "stochastic")
        cells = [cell(f"altgrad eager, {way}") for way in ways] + [cell("torch"), cell("ml_dtypes")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _table(title: str, measured: dict[str, Measured], count: int, wrong: dict[str, float]) -> str:
    copy = measured["copy"]
    lines = [title, "", "| way | ratio to a copy | quartiles | ns a value | rounds | other than ours |"]
    lines.append("|---|---|---|---|---|---|")
    for name, times in measured.items():
        low, median, high = times.ratio(copy)
        share = wrong.get(name)
        differs = "" if share is None else "none" if share == 0 else f"{share:.2%} of values"
        lines.append(
            f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {times.median / count * 1e9:.2f} "
            f"| {len(times.seconds)} | {differs} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
