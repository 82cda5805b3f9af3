"""The log that everything readable is derived from: one event a line, on disk before the next step begins."""

from __future__ import annotations

import json
from pathlib import Path

from altgrad_cli.errors import AltgradError
from altgrad_cli.training.events import Event, event_to_json


class JsonlLog:
    """Appends events to ``path``. A log that cannot be written ends the run: nothing else would prove it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from None

    def receive(self, event: Event) -> None:
        """Append one line and hand it to the system."""
        line = json.dumps(event_to_json(event), allow_nan=False, separators=(",", ":"))
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Close the file; a torn last line is cut when the run is resumed."""
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> AltgradError:
        return AltgradError(
            f"the run's log cannot be written: {(error.strerror or str(error)).lower()}",
            where=str(self.path),
            hint="make room (or get the right to write there), then go on with --resume",
        )
