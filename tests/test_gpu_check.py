"""scripts/gpu-check.sh, dry: every part runs on the CPU and stands on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu-check.sh"


@pytest.mark.campaign  # the checks of every submission run the script itself
@pytest.mark.skipif(not SCRIPT.exists(), reason="a source distribution comes without it")
def test_a_dry_run_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = subprocess.run(
        ["bash", str(SCRIPT), "--dry-run", str(page)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    text = page.read_text("utf-8")
    assert done.returncode == 0, text
    for part in (
        "A dry run",
        "## Tests of devices",
        "## Sweep",
        "E5M2",
        "| plain, eager |",
        "standard, eager, measured",
    ):
        assert part in text
