"""A call that hangs is given up; one that ends hands over what it returned or raised."""

from __future__ import annotations

import threading

import pytest

from altgrad_cli.deadline import within


def test_what_a_call_returns_or_raises_comes_through() -> None:
    assert within(20, lambda: 3) == 3
    assert within(20, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 // 0)


def test_a_call_that_hangs_is_given_up() -> None:
    for_ever = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer for 0\.05 seconds"):
        within(0.05, for_ever.wait)
    for_ever.set()
