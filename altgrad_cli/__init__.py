"""altgrad: a laboratory for exotic 8-bit number formats in training.

    quantize(x, "E3M4", scale)      a tensor rounded onto a format
    parse_format("E4M3:fnuz")       a format from its name
    load_config("e7m0_uniform")     a run's configuration, from a shipped name or a file
    train(config)                   the run itself, an iterator of events
    observe(model, optimizer)       your own loop, watched: it stays as it is
    Subject(build, loss, ...)       your own model, its loss and its batches, each a Batch

Nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from altgrad_cli.reexports import reexports

if TYPE_CHECKING:
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.formats.names import parse_format
    from altgrad_cli.observing.start import observe
    from altgrad_cli.rounding.quantize import quantize
    from altgrad_cli.subjects.subject import Batch, Subject
    from altgrad_cli.training.engine import train

__version__ = "0.1.0"

__all__ = ["Batch", "Subject", "__version__", "load_config", "observe", "parse_format", "quantize", "train"]

__getattr__, __dir__ = reexports(
    __name__,
    {
        "Batch": "subjects.subject",
        "Subject": "subjects.subject",
        "load_config": "config.loading",
        "observe": "observing.start",
        "parse_format": "formats.names",
        "quantize": "rounding.quantize",
        "train": "training.engine",
    },
)
