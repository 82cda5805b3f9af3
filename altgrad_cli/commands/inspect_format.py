"""`altgrad inspect-format`: what a number format can represent, and what it does to a weight."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altgrad_cli.commands.arguments import complete_format
from altgrad_cli.commands.console import data_console, print_json, say
from altgrad_cli.errors import UsageError
from altgrad_cli.files import check_outputs, write_whole
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.scale import SMALLEST_SCALE
from altgrad_cli.reporting.pages.format.facts import FormatFacts, StallQuestion, format_facts

if TYPE_CHECKING:
    from altgrad_cli.reporting.pages.format.fit import TensorFit  # imports torch

SCHEMA = "altgrad.inspect-format/1"

EXAMPLES = (
    "altgrad inspect-format E3M4",
    "altgrad inspect-format E7M0 --lr 6e-4 --std 0.02",
    "altgrad inspect-format E3M4 --compare E3M4:ieee",
    "altgrad inspect-format E4M3:fnuz --codes",
    "altgrad inspect-format E5M2 --on runs/my_run/checkpoints/best.pt",
    "altgrad inspect-format E1M6 --plot e1m6.svg",
    "altgrad inspect-format E5M2 --json",
)


def inspect_format(
    name: Annotated[
        str,
        typer.Argument(
            help="The format: ExMy with options (E3M4, E3M4:ieee, E4M3:fnuz, E3M4:bias=3), or BF16, FP16.",
            autocompletion=complete_format,
        ),
    ],
    learning_rate: Annotated[
        float, typer.Option("--lr", min=0, help="Learning rate that the stall is predicted for.")
    ] = 6e-4,
    std: Annotated[float, typer.Option("--std", help="Standard deviation of the weights.")] = 0.02,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale", help="Scale of the stored weights; by default the one that training would choose."
        ),
    ] = None,
    codes: Annotated[
        bool, typer.Option("--codes", help="Print every code: bits, value, exact fraction.")
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="NAME",
            help="Put a second format beside it.",
            autocompletion=complete_format,
        ),
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option(
            "--on",
            metavar="FILE",
            help="What the format would do to the tensors of a checkpoint (.pt, .safetensors).",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Draw number line, gap and error curves."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the plot if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document on stdout.")] = False,
) -> None:
    """Show a number format on one screen: range, rounding, accuracy, what update can move a weight.

    Nothing is trained and nothing is loaded but the file of --on.
    """
    check_outputs(("--plot", plot), force=force)
    if not math.isfinite(learning_rate):
        raise UsageError(f"--lr must be a number, not {learning_rate}", where="--lr", allowed=">= 0, finite")
    _check_positive("--std", std)
    if scale is not None:
        _check_positive("--scale", scale)
    question = StallQuestion(learning_rate=learning_rate, std=std, scale=scale)
    format = parse_format(name)
    other = parse_format(compare) if compare is not None else None
    facts = format_facts(format, question)
    other_facts = format_facts(other, question) if other is not None else None
    fitted = None
    if on is not None:
        from altgrad_cli.reporting.pages.format.fit import fit_file  # imports torch

        fitted = fit_file(on, format, question)
    if plot is not None:
        _draw(format, other, plot)
    if json:
        compared = other_facts.to_json() if other_facts is not None else None
        tensors = None if fitted is None else [asdict(fit) for fit in fitted[0]]
        print_json(SCHEMA, {**facts.to_json(), "compared_to": compared, "tensors": tensors})
    else:
        listed = [each for each in (format, other) if each is not None] if codes else []
        _print_screen(facts, other_facts, fitted, listed)


def _check_positive(option: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(
            f"{option} must be a positive number, not {value:g}", where=option, allowed="> 0, finite"
        )


def _draw(format: FP8Format, other: FP8Format | None, path: Path) -> None:
    if path.suffix.lower() != ".svg":
        raise UsageError(f"the plot is an SVG file, not {path.name}", where="--plot", allowed="FILE.svg")
    from altgrad_cli.reporting.pages.format.plot import draw_formats  # imports matplotlib

    write_whole(path, draw_formats([format] if other is None else [format, other]))
    say(f"plot: {path}")


def _print_screen(
    facts: FormatFacts,
    other: FormatFacts | None,
    fitted: tuple[list[TensorFit], int] | None,
    listed: list[FP8Format],
) -> None:
    from altgrad_cli.reporting.pages.format.sheet import equivalence_words, print_plainly, print_sheet
    from altgrad_cli.reporting.pages.format.tables import code_lines, comparison_table, fit_table

    console = data_console()
    if other is None and fitted is None and not listed:
        print_sheet(console, facts)
        return
    console.print(facts.format.describe(), style="bold")
    if other is not None:
        console.print(other.format.describe(), style="bold")
        console.print()
        print_plainly(console, comparison_table(facts, other))
        if any(found.format.name == other.format.name for found in facts.equivalents):
            console.print()
            console.print(equivalence_words(facts))
    if fitted is not None:
        fits, others = fitted
        console.print()
        print_plainly(console, fit_table(fits, console.width))
        console.print()
        beyond = [fit.name for fit in fits if fit.overflow is None]
        if beyond:
            words = "no float32 carrier holds it, so no grid is measured"
            console.print(f"beyond float32: {', '.join(beyond)} ({words})")
        held = [fit.name for fit in fits if fit.scale == SMALLEST_SCALE]
        if held:
            words = "no scale is smaller: what it loses is lost by float32, not by the format"
            console.print(f"at the smallest normal float32, 2^-126: {', '.join(held)} ({words})")
        console.print(_fit_note(facts, others))
    for codes_of in listed:
        console.print()
        if len(listed) > 1:
            console.print(f"codes of {codes_of.name}", style="bold")
        for line in code_lines(codes_of):
            console.out(line, highlight=False)


def _fit_note(facts: FormatFacts, others: int) -> str:
    note = (
        "over, under: values beyond the max, values rounded to 0. codes: share of the codes in use. "
        "stall: predicted share that one update of Adam at lr "
        f"{facts.stall.learning_rate:g} leaves unchanged."
    )
    return (
        f"{note} {others} other tensors (no float matrix, a mask, or not of the network) are left out."
        if others
        else note
    )
