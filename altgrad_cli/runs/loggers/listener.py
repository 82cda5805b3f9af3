"""The interface of everything that listens to a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from altgrad_cli.training.events import Alert, Event


class Listener(Protocol):
    """Receives every event of a run in order, then ``close`` once, however the run ended."""

    def receive(self, event: Event) -> None:
        """Take in one event."""

    def close(self) -> None:
        """No event follows."""


class FanOut:
    """One listener made of several; each hears every event, in the order in which they were given."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def receive(self, event: Event) -> None:
        """Pass ``event`` on to all."""
        for listener in self._listeners:
            listener.receive(event)

    def close(self) -> None:
        """Close all, the last one first."""
        for listener in reversed(self._listeners):
            listener.close()


def grouped(alerts: Iterable[Alert]) -> dict[tuple[str, str, str], list[Alert]]:
    """(name, metric, state) -> the alerts of one step that say so, of several layers as a rule."""
    groups: dict[tuple[str, str, str], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.name, alert.metric, alert.state), []).append(alert)
    return groups
