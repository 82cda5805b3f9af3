"""What an 8-bit float is. Neither torch nor numpy.

accuracy        How well a grid represents numbers: gaps, relative error, SQNR of a normal input
analysis        What an update can do to a weight that lives on the grid
block_accuracy  What a scale a block buys: bits a value, range, SQNR of inputs with outliers
block_spec      Which values share a scale, and what that scale is stored in
equivalence     Formats that are one experiment under two names
exact_text      How numbers of a grid are written for people
names           From a name to a format
reference       Rounding onto a grid, slowly and obviously right
rules           The rules a format's fields must keep
scale           From the largest magnitude of a tensor to the scale s it is divided by
spec            What a small float is: one frozen spec, everything else derived from it
"""

from __future__ import annotations

from altgrad_cli.formats.names import FORMAT_REGISTRY, named_formats, parse_format
from altgrad_cli.formats.spec import FP8Format

__all__ = ["FORMAT_REGISTRY", "FP8Format", "named_formats", "parse_format"]
