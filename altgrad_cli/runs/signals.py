"""Signals as questions that a run asks between two steps, so that nothing is cut in the middle."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

_STOP = ("SIGINT", "SIGTERM", "SIGHUP")
_CAPTURE = "SIGUSR1"
Handler = Callable[[int, FrameType | None], object]


class RunSignals:
    """While entered: Ctrl-C (SIGTERM, a closed terminal) asks for a stop, SIGUSR1 for a forensic checkpoint.

    A second Ctrl-C interrupts at once, unless ``patient``: torchrun repeats to each rank what all heard.
    """

    def __init__(self, on_stop: Callable[[], object] = lambda: None, *, patient: bool = False) -> None:
        self._on_stop, self._patient = on_stop, patient
        self._stop = self._capture = False
        self._handled = handled({**dict.fromkeys(_STOP, self._stopped), _CAPTURE: self._captured})

    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop

    def capture_requested(self) -> bool:
        """Whether a checkpoint was asked for since this was last called."""
        wanted, self._capture = self._capture, False
        return wanted

    def __enter__(self) -> RunSignals:
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handled.__exit__(kind, error, trace)

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            if self._patient:
                return
            raise KeyboardInterrupt
        self._stop = True
        with suppress(OSError):  # the terminal may be what is gone
            self._on_stop()

    def _captured(self, number: int, frame: FrameType | None) -> None:
        self._capture = True


@contextmanager
def handled(handlers: Mapping[str, Handler]) -> Iterator[None]:
    """Inside the block these handlers are in force, also for a SIGINT that a script's shell had ignored.

    Only a SIGHUP that is ignored stays so: ``nohup`` means it. What the system does not know is passed over.
    """
    before = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


STOP_INTERRUPTS: Mapping[str, Handler] = dict.fromkeys(_STOP, _interrupt)
"""Every signal that asks for a stop is a KeyboardInterrupt."""
