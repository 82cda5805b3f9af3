"""Warnings of the lower rooms, which know no console, as lines for the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(" ".join(record.getMessage().split()))


@contextmanager
def warnings_as_lines(say: Callable[[str], object]) -> Iterator[None]:
    """While entered, every warning that altgrad logs is one call of ``say``."""
    handler = _Lines(say)
    logger = logging.getLogger("altgrad_cli")
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
