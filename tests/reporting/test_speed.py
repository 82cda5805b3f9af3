"""A large report in seconds: 20 arms of 500 steps with all layers, every metric, pictures and page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reporting import recorded
from tests.reporting.recorded import config, record

FORMATS = ("E5M2", "E3M4", "E1M6", "E0M7", "E7M0", "E4M3", "E2M5", "E6M1")


@pytest.mark.parametrize(
    ("formats", "seeds", "steps", "seconds"),
    [
        pytest.param(FORMATS[:2], (42,), 60, 8.0, id="short"),
        pytest.param(FORMATS, (42, 43), 500, 10.0, id="20 arms", marks=pytest.mark.campaign),
    ],
)
def test_a_report_takes_seconds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    formats: tuple[str, ...],
    seeds: tuple[int, ...],
    steps: int,
    seconds: float,
) -> None:
    """Processor time, start of the program included, so that a busy machine does not fail it."""
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    layers = (*(f"blocks.{block}.{kind}" for block in range(4) for kind in kinds), "lm_head")
    monkeypatch.setattr(recorded, "LAYERS", layers)
    runs = []
    for seed in seeds:
        for regime in ("fp32", "frozen"):
            arm = config(regime, "E5M2", seed)
            runs.append(
                record(tmp_path / f"{regime}-{seed}", arm, floor=2.0, steps=steps, extra_layer_metrics=35)
            )
        for name in formats:
            arm = config("uniform", name, seed)
            values = {"floor": 2.5, "stall": 0.9, "transfer": 0.2, "steps": steps, "extra_layer_metrics": 35}
            runs.append(record(tmp_path / f"{name}-{seed}", arm, **values))  # type: ignore[arg-type]
    code = (
        "import sys, time; from pathlib import Path; from altgrad_cli.reporting.report import build_report\n"
        "from altgrad_cli.reporting.render.markdown import write_markdown\n"
        "from altgrad_cli.reporting.render.html import write_html\n"
        "report = build_report([Path(name) for name in sys.argv[2:]])\n"
        "write_markdown(report, Path(sys.argv[1]) / 'report.md')\n"
        "write_html(report, Path(sys.argv[1]) / 'report.html')\n"
        "print(time.process_time())"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *map(str, runs)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < seconds
    assert (tmp_path / "report" / "stall.png").is_file()
