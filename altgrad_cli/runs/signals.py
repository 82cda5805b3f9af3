"""Signals as questions that a run asks between two steps, so that nothing is cut in the middle."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

_STOP = ("SIGINT", "SIGTERM")
_CAPTURE = "SIGUSR1"


class RunSignals:
    """While entered: Ctrl-C (or SIGTERM) asks for a stop, SIGUSR1 for a forensic checkpoint.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self, on_stop: Callable[[], object] = lambda: None) -> None:
        self._on_stop = on_stop
        self._stop = self._capture = False
        self._before: dict[int, object] = {}

    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop

    def capture_requested(self) -> bool:
        """Whether a checkpoint was asked for since this was last called."""
        wanted, self._capture = self._capture, False
        return wanted

    def __enter__(self) -> RunSignals:
        handlers = {**dict.fromkeys(_STOP, self._stopped), _CAPTURE: self._captured}
        for name, handler in handlers.items():
            number = getattr(signal, name, None)  # SIGUSR1 is not everywhere
            if number is not None:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        self._on_stop()

    def _captured(self, number: int, frame: FrameType | None) -> None:
        self._capture = True
