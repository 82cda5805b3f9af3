"""altgrad: a laboratory for exotic 8-bit number formats in training."""

from __future__ import annotations

__version__ = "0.1.0"
