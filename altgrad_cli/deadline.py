"""``within``: a call that may never return, waited for no longer than that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises; TimeoutError when it has done neither after ``seconds``.

    The call runs in a thread of its own, since no time limit of a library covers all of name look-up,
    connecting and opening a pipe. A call that was given up goes on in that thread, which does not hold the
    process at its end.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 (handed over, not swallowed)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer for {seconds:g} seconds")
    return results[0]
