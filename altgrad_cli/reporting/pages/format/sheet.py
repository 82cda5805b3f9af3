"""A format on one screen: its facts laid out for a terminal of 80 columns or more, or for a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from altgrad_cli.formats.accuracy import Binade
from altgrad_cli.formats.block_accuracy import BlockFacts
from altgrad_cli.formats.exact_text import exact_text
from altgrad_cli.formats.names import LIBRARY_NAMES
from altgrad_cli.notation import MISSING
from altgrad_cli.reporting.pages.format.facts import FormatFacts
from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK

_TWO_COLUMNS_FROM = 150
_LEFT_WIDTH = 78
_MAX_BINADES = 18
_BAR_WIDTH = 14
_SPECIALS = {
    "finite": "none: every code is a number",
    "ieee": "inf and nan in the top exponent field (IEEE)",
    "fn": "nan in the all-ones code alone, no inf (OCP fn)",
    "fnuz": "nan in the code of -0, so no -0; no inf (fnuz)",
    "p3109": "nan in the code of -0, inf in the all-ones code (P3109)",
}


def format_sheet(facts: FormatFacts, width: int, bar: str = "█") -> RenderableType:
    """All of ``facts``; ``bar`` is the character that gaps are drawn with."""
    left = [_encoding(facts), _range(facts), _rounding(facts), _accuracy(facts)]
    if facts.blocks is not None:
        left.append(_blocks(facts.blocks))
    right = [_section("Gap, binade by binade", _gap_table(facts.binades, bar))]
    below = [_updates(facts), _stall(facts), _relations(facts)]
    title = Text(facts.format.describe(), style="bold")
    if width < _TWO_COLUMNS_FROM:
        return Group(title, *left, *right, *below)
    columns = Table.grid(padding=(0, 3, 0, 0))
    columns.add_column(width=_LEFT_WIDTH)
    columns.add_column()
    columns.add_row(Group(*left, _stall(facts)), Group(*right, _updates(facts), _relations(facts)))
    return Group(title, columns)


def print_sheet(console: Console, facts: FormatFacts) -> None:
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
        return MISSING
    text = exact_text(value)
    significand, exponent = math.frexp(abs(value))
    if len(text) > 7 and significand == 0.5:
        return f"{'-' if value < 0 else ''}2^{exponent - 1}"
    return text if len(text) <= 12 else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as a percentage: three digits, more where it is nearly all; tiny ones only as tiny."""
    if share is None:
        return MISSING
    if 0 < share < 1e-6:
        return "< 0.0001 %"
    if 1 - 1e-5 < share < 1:
        return "> 99.999 %"
    if 0.99 < share < 1:
        return f"{100 * share:.{-math.floor(math.log10(1 - share)) - 1}f} %"
    return f"{100 * share:.3g} %"


def up_words(up: float, more_than: str = "") -> str:
    """The half gap above a weight; beyond the maximum there is none."""
    return "never (at max)" if math.isinf(up) else f"{more_than}{number(up)}"


def headed_grid(headings: Sequence[str], left: Iterable[str] = (), padding: int = 2) -> Table:
    """An empty table under a dim line of ``headings``; columns but those of ``left`` are set to the right."""
    table = Table.grid(padding=(0, padding, 0, 0))
    to_left = {headings[0], *left}
    for heading in headings:
        table.add_column(justify="left" if heading in to_left else "right", no_wrap=True)
    table.add_row(*headings, style="dim")
    return table


def equivalence_words(facts: FormatFacts) -> str:
    """``E1M6 is E0M7 times 4: ...`` for every equivalent format, or that there is none."""
    if not facts.equivalents:
        return "no named format is this one times a power of two"
    found = ", and ".join(
        f"{other.format.name} times {number(other.factor)}"
        + ("" if other.same_specials else " (with other specials)")
        for other in facts.equivalents
    )
    return f"{facts.format.name} is {found}: under per-tensor scaling the two are the same experiment"


def _section(title: str, content: RenderableType) -> Group:
    return Group(Text(), Text(title, style="bold cyan"), content)


def _labelled(title: str, *rows: tuple[str, str]) -> Group:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim", min_width=20)
    grid.add_column()
    for label, text in rows:
        grid.add_row(f"  {label}", text)
    return _section(title, grid)


def _encoding(facts: FormatFacts) -> Group:
    format = facts.format
    fields = ("s", "e" * format.exponent_bits, "m" * format.mantissa_bits)
    rows = [
        ("bits", f"{format.width}: {' '.join(filter(None, fields))}"),
        ("bias", "none: fixed point, a sign and a fraction" if facts.bias is None else str(facts.bias)),
        ("specials", _SPECIALS[format.dialect]),
    ]
    if format.name in LIBRARY_NAMES:
        rows.append(("elsewhere", ", ".join(LIBRARY_NAMES[format.name])))
    labels = ["not to confuse with"] + [""] * len(facts.namesakes)
    rows += [(label, other.describe()) for label, other in zip(labels, facts.namesakes, strict=False)]
    return _labelled("Encoding", *rows)


def _range(facts: FormatFacts) -> Group:
    format, count = facts.format, len(facts.binades)
    normal = sum(row.is_normal for row in facts.binades)
    fixed = format.is_fixed_point
    split = "a fixed step" if fixed else f"{normal} normal, {count - normal} subnormal"
    return _labelled(
        "Range",
        ("max", number(format.max_representable_value, 6)),
        ("smallest normal", f"{MISSING} (fixed point)" if fixed else number(format.min_normal, 6)),
        (
            "step" if fixed else "smallest subnormal",
            number(format.min_subnormal, 6) if format.mantissa_bits else f"{MISSING} (no mantissa bit)",
        ),
        ("binades", f"{count} ({split})"),
        ("dynamic range", f"{facts.octaves:.2f} octaves, {facts.octaves * math.log10(2):.2f} decades"),
    )


def _rounding(facts: FormatFacts) -> Group:
    ties = ", ".join(f"{number(x)} → {number(rounded)}" for x, rounded in facts.ties)
    beyond = facts.special_overflow
    ieee = f"{beyond} with overflow: ieee" if beyond else "overflow: ieee is refused"
    return _labelled(
        "Rounding",
        ("ties", f"to the even code: {ties}"),
        ("too large", f"{number(facts.format.overflow_threshold, 9)} and beyond become the max; {ieee}"),
    )


def _accuracy(facts: FormatFacts) -> Group:
    error, accuracy = facts.error, facts.accuracy
    clip = accuracy.scale * facts.format.max_representable_value
    return _labelled(
        "Accuracy",
        ("relative error", f"worst {percent(error.worst)}, mean {percent(error.mean)}"),
        ("", f"from {number(error.low)} to {number(error.high)}, mean for log-uniform x"),
        ("SQNR of N(0, 1)", f"{accuracy.sqnr_db:.2f} dB at the best scale,"),
        ("", f"{accuracy.scale:.4g} (max at {clip:.3g} standard deviations)"),
    )


def _blocks(found: BlockFacts) -> Group:
    across = MISSING if found.octaves_across is None else f"{found.octaves_across:.2f}"
    sqnr = [
        (f"SQNR, {each.input}", f"{each.blocks:.2f} dB, with one scale {each.one_scale:.2f} dB")
        for each in found.accuracy
    ]
    return _labelled(
        "Blocks",
        ("bits a value", f"{found.bits_a_value:.4g}, scales included"),
        ("range", f"{found.octaves_inside:.2f} octaves in a block, {across} across blocks"),
        *sqnr,
        ("", "lognormal: log |x| ~ N(0, 1.5^2); outliers: one value in 500 times 100"),
    )


def _gap_table(binades: Sequence[Binade], bar: str) -> Table:
    """One row a binade, the largest first; long stretches of equal relative gap are told in one row.

    The bars are logarithmic, a character per equal factor: the gap from the smallest of the format to its
    largest, the relative gap from 2^-16 to 1.
    """
    table = headed_grid(("  from", "values", "gap", "", "gap / x", ""), left=("",))
    gaps = [math.log2(row.gap) for row in binades]
    low, high = min(gaps), max(gaps)
    for row in reversed(_condensed(binades)):
        if row is None:
            table.add_row("  ...", "", "", "", "", "")
            continue
        place = (math.log2(row.gap) - low) / (high - low) if high > low else 1.0
        text = exact_text(row.gap)
        table.add_row(
            f"  2^{row.exponent}",
            f"{row.value_count:,}",
            text if len(text) <= 11 else f"{row.gap:.4g}",
            bar * max(1, round(place * _BAR_WIDTH)),
            f"{100 * row.relative_gap:.3g} %",
            bar * max(1, round((1 + math.log2(row.relative_gap) / 16) * _BAR_WIDTH)),
        )
    return table


def _condensed(binades: Sequence[Binade]) -> list[Binade | None]:
    """The binades, or their two ends and the border between subnormal and normal; None for those left out."""
    if len(binades) <= _MAX_BINADES:
        return list(binades)
    border = next((i for i, row in enumerate(binades) if row.is_normal), len(binades))
    kept = {*range(4), *range(border - 3, border + 4), *range(len(binades) - 4, len(binades))}
    marked = [row if i in kept else None for i, row in enumerate(binades)]
    return [row for key, rows in groupby(marked, bool) for row in (rows if key else (None,))]


def _updates(facts: FormatFacts) -> Group:
    table = headed_grid(("  weight", "scale", "stored as", "up: more than", "down: more than"))
    for (weight, scale), gaps in facts.half_gaps.items():
        cells = (number(scale), number(gaps.stored), up_words(gaps.up), number(gaps.down))
        table.add_row(f"  {weight:g}", *cells)
    return _section("What update moves a stored weight: half the gap", table)


def _stall(facts: FormatFacts) -> Group:
    stall = facts.stall
    spread = math.sqrt((1 - stall.beta1) / (1 + stall.beta1))
    setting = f"lr {stall.learning_rate:g}, weights N(0, {stall.std:g}^2) at scale {number(stall.scale)}"
    return _labelled(
        "Predicted stall: weights that one update leaves unchanged",
        ("in the long run", f"{percent(stall.long_run)}   dw ~ N(0, ({spread:.3g} lr)^2)"),
        ("at the first step", f"{percent(stall.first_step)}   |dw| = lr"),
        ("stored as 0", percent(stall.stored_as_zero)),
        ("for", setting),
    )


def _relations(facts: FormatFacts) -> Group:
    rows = [
        ("same grid", equivalence_words(facts)),
        ("clip threshold", f"{facts.clip_threshold:.4g} (base_clip 1, times max / 57344)"),
    ]
    if facts.format.name in FORMAT_FALLBACK:
        rows.append(("fallback", FORMAT_FALLBACK[facts.format.name] or "none: the last of the chain"))
    return _labelled("Relations", *rows)
