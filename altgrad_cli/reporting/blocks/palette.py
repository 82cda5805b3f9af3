"""Colours that people with any colour vision can tell apart (Okabe and Ito, 2008), one for each format."""

from __future__ import annotations

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#AA4499",
    "#56B4E9",
    "#B8A600",
)
INK, GREY, PALE, MISSING, NONFINITE = "#1B1F24", "#6E7781", "#D8DEE4", "#F4EBDD", "#D81B60"
ZERO = "#FFFFFF"
"""What exactly 0 looks like on a scale of decades."""

FORMAT_COLORS = {
    "FP32": INK,
    "BF16": "#8C6D46",
    "FROZEN": "#9AA4AE",
    "E5M2": BLUE,
    "E3M4": GREEN,
    "E1M6": ORANGE,
    "E0M7": VERMILION,
    "E7M0": PURPLE,
    "E4M3": SKY,
    "E2M5": YELLOW,
    "E6M1": "#882255",
    "FP16": "#332288",
}
_OTHERS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW)


def color_of(format_name: str, control: str | None, number: int = 0) -> str:
    """The colour of a run; controls are ink and greys, formats keep their colour in every picture."""
    if control in ("fp32", "frozen"):
        return FORMAT_COLORS[control.upper()]
    if control == "bf16":
        return FORMAT_COLORS["BF16"]
    base = format_name.partition(":")[0].upper()
    return FORMAT_COLORS.get(base, _OTHERS[number % len(_OTHERS)])


# One hue from light to dark, none of a format's: a colour of a format means that format in every picture.
HEAT = (
    "#E9EEF3", "#C9D6E2", "#A6BBCF", "#83A0BB", "#6385A6", "#476B90", "#315379", "#1F3C61", "#122848",
    "#08172F",
)  # fmt: skip
"""Dark is trouble: a high rate of stall, a low cosine."""
