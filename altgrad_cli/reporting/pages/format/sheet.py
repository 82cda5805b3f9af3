"""A format on one screen: ``format_facts`` laid out for a terminal of 80 columns or more, or for a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from altgrad_cli.formats.notation import exact_text
from altgrad_cli.reporting.pages.format.bars import gap_table

_TWO_COLUMNS_FROM = 150
_LEFT_WIDTH = 78


def format_sheet(facts: Mapping[str, Any], width: int, bar: str = "█") -> RenderableType:
    """All of ``format_facts.describe_format``'s facts; ``bar`` is the character that gaps are drawn with."""
    left = [_encoding(facts), _range(facts), _rounding(facts), _accuracy(facts)]
    right = [_section("Gap, binade by binade", gap_table(facts["binades"], bar))]
    below = [_updates(facts), _stall(facts), _relations(facts)]
    title = Text(facts["description"], style="bold")
    if width < _TWO_COLUMNS_FROM:
        return Group(title, *left, *right, *below)
    columns = Table.grid(padding=(0, 3, 0, 0))
    columns.add_column(width=_LEFT_WIDTH)
    columns.add_column()
    columns.add_row(Group(*left, _stall(facts)), Group(*right, _updates(facts), _relations(facts)))
    return Group(title, columns)


def print_sheet(console: Console, facts: Mapping[str, Any]) -> None:
    """Print the sheet as wide as ``console`` is, with ASCII bars where it cannot show blocks."""
    bar = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    print_plainly(console, format_sheet(facts, console.width, bar))


def print_plainly(console: Console, content: RenderableType) -> None:
    """Print; where no terminal shows it, without the blanks that pad a table's lines."""
    if console.is_terminal:
        console.print(content)
        return
    with console.capture() as capture:
        console.print(content)
    for line in capture.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def number(value: float | None, digits: int = 4) -> str:
    """A grid number exactly where that is short, else to ``digits`` digits; a dash for None."""
    if value is None:
        return "–"
    text = exact_text(value)
    significand, exponent = math.frexp(abs(value))
    if len(text) > 7 and significand == 0.5:
        return f"{'-' if value < 0 else ''}2^{exponent - 1}"
    return text if len(text) <= 12 else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share as a percentage: three digits, more where it is nearly all; tiny ones only as tiny."""
    if 0 < share < 1e-6:
        return "< 0.0001 %"
    if 1 - 1e-5 < share < 1:
        return "> 99.999 %"
    if 0.99 < share < 1:
        return f"{100 * share:.{-math.floor(math.log10(1 - share)) - 1}f} %"
    return f"{100 * share:.3g} %"


def _section(title: str, content: RenderableType) -> Group:
    return Group(Text(), Text(title, style="bold cyan"), content)


def _facts_grid(rows: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim", min_width=20)
    grid.add_column()
    for label, text in rows:
        grid.add_row(f"  {label}", text)
    return grid


def _encoding(facts: Mapping[str, Any]) -> RenderableType:
    exponent, mantissa = facts["exponent_bits"], facts["mantissa_bits"]
    fields = " ".join(field for field in ("s", "e" * exponent, "m" * mantissa) if field)
    rows = [
        ("bits", f"{facts['width']}: {fields}"),
        ("bias", _bias_words(facts)),
        ("specials", _special_words(facts)),
    ]
    if facts["also_known_as"]:
        rows.append(("elsewhere", ", ".join(facts["also_known_as"])))
    label = "not to confuse with"
    for other in facts["same_name"]:
        rows.append((label, other["description"]))
        label = ""
    return _section("Encoding", _facts_grid(rows))


def _bias_words(facts: Mapping[str, Any]) -> str:
    if facts["bias"] is None:
        return "none: fixed point, a sign and a fraction"
    return str(facts["bias"])


def _special_words(facts: Mapping[str, Any]) -> str:
    words = {
        "finite": "none: every code is a number",
        "ieee": "inf and nan in the top exponent field (IEEE)",
        "fn": "nan in the all-ones code alone, no inf (OCP fn)",
        "fnuz": "nan in the code of -0, so no -0; no inf (fnuz)",
        "p3109": "nan in the code of -0, inf in the all-ones code (P3109)",
    }
    return words[facts["dialect"]]


def _range(facts: Mapping[str, Any]) -> RenderableType:
    binades = facts["binades"]
    normal = sum(row["normal"] for row in binades)
    fixed = facts["bias"] is None
    small = "step" if fixed else "smallest subnormal"
    split = "a fixed step" if fixed else f"{normal} normal, {len(binades) - normal} subnormal"
    return _section(
        "Range",
        _facts_grid(
            [
                ("max", number(facts["max"], 6)),
                ("smallest normal", number(facts["min_normal"], 6) if not fixed else "– (fixed point)"),
                (
                    small,
                    number(facts["min_subnormal"], 6) if facts["mantissa_bits"] else "– (no mantissa bit)",
                ),
                ("binades", f"{len(binades)} ({split})"),
                ("dynamic range", f"{facts['octaves']:.2f} octaves, {facts['decades']:.2f} decades"),
            ]
        ),
    )


def _rounding(facts: Mapping[str, Any]) -> RenderableType:
    ties = ", ".join(f"{number(tie['x'])} → {number(tie['rounded'])}" for tie in facts["ties"])
    beyond = facts["overflow_ieee"]
    ieee = f"{beyond} with overflow: ieee" if beyond else "overflow: ieee is refused"
    return _section(
        "Rounding",
        _facts_grid(
            [
                ("ties", f"to the even code: {ties}"),
                ("too large", f"{number(facts['overflow_from'], 9)} and beyond become the max; {ieee}"),
            ]
        ),
    )


def _accuracy(facts: Mapping[str, Any]) -> RenderableType:
    error = facts["relative_error"]
    clip = facts["gaussian_best_scale"] * facts["max"]
    return _section(
        "Accuracy",
        _facts_grid(
            [
                ("relative error", f"worst {percent(error['worst'])}, mean {percent(error['mean'])}"),
                ("", f"from {number(error['from'])} to {number(error['to'])}, mean for log-uniform x"),
                ("SQNR of N(0, 1)", f"{facts['gaussian_sqnr_db']:.2f} dB at the best scale,"),
                ("", f"{facts['gaussian_best_scale']:.4g} (max at {clip:.3g} standard deviations)"),
            ]
        ),
    )


def _updates(facts: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for heading in ("  weight", "scale", "stored as", "up: more than", "down: more than"):
        table.add_column(justify="left" if heading == "  weight" else "right", no_wrap=True)
    table.add_row("  weight", "scale", "stored as", "up: more than", "down: more than", style="dim")
    for row in facts["half_gaps"]:
        up = "never (at max)" if math.isinf(row["up"]) else number(row["up"])
        table.add_row(
            f"  {row['weight']:g}", number(row["scale"]), number(row["stored"]), up, number(row["down"])
        )
    return _section("What update moves a stored weight: half the gap", table)


def _stall(facts: Mapping[str, Any]) -> RenderableType:
    asked = facts["predicted_stall_for"]
    rate = asked["learning_rate"]
    spread = math.sqrt((1 - asked["beta1"]) / (1 + asked["beta1"]))
    setting = f"lr {rate:g}, weights N(0, {asked['std']:g}^2) at scale {number(asked['scale'])}"
    return _section(
        "Predicted stall: weights that one update leaves unchanged",
        _facts_grid(
            [
                ("in the long run", f"{percent(facts['predicted_stall'])}   dw ~ N(0, ({spread:.3g} lr)^2)"),
                ("at the first step", f"{percent(facts['predicted_stall_first_step'])}   |dw| = lr"),
                ("stored as 0", percent(asked["stored_as_zero"])),
                ("for", setting),
            ]
        ),
    )


def _relations(facts: Mapping[str, Any]) -> RenderableType:
    return _section("Relations", _facts_grid([("same grid", equivalence_words(facts)), *_study_rows(facts)]))


def equivalence_words(facts: Mapping[str, Any]) -> str:
    """``E1M6 is E0M7 times 4: ...`` for every equivalent format, or that there is none."""
    if not facts["equivalent_to"]:
        return "no named format is this one times a power of two"
    found = ", and ".join(
        f"{other['format']} times {number(other['factor'])}"
        + ("" if other["same_specials"] else " (with other specials)")
        for other in facts["equivalent_to"]
    )
    return f"{facts['name']} is {found}: under per-tensor scaling the two are the same experiment"


def _study_rows(facts: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    threshold = ("clip threshold", f"{facts['clip_threshold']:.4g} (base_clip 1, times max / 57344)")
    if not facts["in_study"]:
        return [threshold]
    fallback = facts["fallback"] or "none: the last of the chain"
    return [threshold, ("fallback", fallback)]
