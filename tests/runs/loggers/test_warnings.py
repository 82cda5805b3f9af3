from __future__ import annotations

import logging

from altgrad_cli.runs.loggers.warnings import warnings_as_lines


def test_a_lower_room_s_warning_is_one_line_and_only_while_someone_listens() -> None:
    log = logging.getLogger("altgrad_cli.data")
    said: list[str] = []
    with warnings_as_lines(said.append):
        log.warning("the cache was damaged\n  and is rebuilt: %s", "x.bin")
        log.info("nothing to see")
    log.warning("nobody hears this")
    assert said == ["the cache was damaged and is rebuilt: x.bin"]
