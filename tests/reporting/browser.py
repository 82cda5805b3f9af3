"""A page in headless Chromium: what it drew, what its console said, what it asked of the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_CONSOLE = re.compile(r"CONSOLE[:(]\d+\)?\] (?P<message>.*)")


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of opening a page."""

    dom: str
    console: list[str]
    requests: list[str]
    """URLs that were asked for, other than the page itself and data inside it."""


def chromium() -> str:
    """The browser's path; skips where there is none, and fails in CI, where it is installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no chromium on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def visit(page: Path, folder: Path) -> Visit:
    """Open ``page`` in a window high enough that every plot is drawn, and wait until it is at rest."""
    log = folder / "network.json"
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", "--disable-sync", "--disable-default-apps",
        "--disable-features=OptimizationHints,MediaRouter", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}", "--window-size=1400,20000",
        "--virtual-time-budget=30000",
        "--enable-logging=stderr", "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "</html>" in result.stdout, result.stderr[-2000:]
    console = [match["message"] for match in _CONSOLE.finditer(result.stderr)]
    return Visit(result.stdout, console, _requests(log))


def _requests(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        document = json.loads(text + "]}")  # a browser that is ended early leaves the log open
    started = document["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event.get("params") or {} for event in document["events"] if event["type"] == started]
    # What the browser asks on its own account (updates, clocks) has no origin; what a page asks has one.
    return [job["url"] for job in jobs if "url" in job and job.get("initiator") != "not an origin"]
