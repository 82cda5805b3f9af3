"""What an 8-bit float is: specs, names, the exact slow reference, equivalences. Neither torch nor numpy."""

from __future__ import annotations

from altgrad_cli.formats.names import FORMAT_REGISTRY, named_formats, parse_format
from altgrad_cli.formats.spec import FP8Format

__all__ = ["FORMAT_REGISTRY", "FP8Format", "named_formats", "parse_format"]
