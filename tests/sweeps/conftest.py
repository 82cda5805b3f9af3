"""A run of seconds, and logs written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from altgrad_cli.config.loading import load_config, resolve
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.specification import SweepSpec
from altgrad_cli.sweeps.verdicts import JudgedRun, judge_run

LAYERS = ("blocks.0.attn.c_attn", "blocks.0.attn.c_proj", "blocks.0.mlp.c_fc", "lm_head")

WriteLog = Callable[..., Path]
Find = Callable[..., JudgedRun]


def spec(**changes: Any) -> SweepSpec:
    """A specification of the shared settings with ``changes``."""
    return SweepSpec(**{"base": load_config("base"), **changes})


@pytest.fixture
def write_log(tmp_path: Path) -> WriteLog:
    """Writes a run's folder by hand: ``write_log("arm", losses=[...], validation={50: 2.4})``."""

    def write(
        name: str,
        *,
        config: TrainConfig | None = None,
        losses: Sequence[float] = (3.0, 2.5, 2.0),
        validation: dict[int, Any] | None = None,
        metrics: dict[str, Sequence[Any]] | None = None,
        layers: dict[str, Sequence[Any]] | None = None,
        dropped: Sequence[int] = (),
        alerts: Sequence[dict[str, Any]] = (),
        outcome: str | None = "completed",
        collapse: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> Path:
        run_dir = (folder or tmp_path / "runs") / name
        run_dir.mkdir(parents=True, exist_ok=True)
        plain = resolve(config if config is not None else load_config("smoke"))
        lines: list[dict[str, Any]] = [
            {"event": "run_started", "step": 0, "config": plain, "layers": list(LAYERS), "injections": []}
        ]
        for step, loss in enumerate(losses, start=1):
            values = {key: column[step - 1] for key, column in (metrics or {}).items()}
            lines.append(
                {
                    "event": "step",
                    "step": step,
                    "metrics": {"loss": loss, **values},
                    "layers": {key: list(row) for key, row in (layers or {}).items()},
                    "committed": step not in dropped,
                    "format": plain["fp8_format"],
                    "histograms": {},
                }
            )
            lines += [{"event": "alert", **alert} for alert in alerts if alert["step"] == step]
            if validation and step in validation:
                lines.append(
                    {
                        "event": "evaluated",
                        "step": step,
                        "validation_loss": validation[step],
                        "validation_loss_master": None,
                        "perplexity": None,
                    }
                )
        if outcome is not None:
            lines.append(
                {
                    "event": "run_ended",
                    "step": len(losses),
                    "outcome": outcome,
                    "reason": "",
                    "collapse": collapse,
                    "formats": [[0, plain["fp8_format"]]],
                }
            )
        (run_dir / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run_dir

    return write


@pytest.fixture
def find(write_log: WriteLog) -> Find:
    """``find("e7m0-uniform", rho=.1, ...)``: a finished arm with that recovered fraction."""

    def make(name: str, *, rho: float, **log: Any) -> JudgedRun:
        fp32 = read_run(write_log("fp32", validation={3: 2.0}))
        frozen = read_run(write_log("frozen", validation={3: 3.0}))
        record = read_run(write_log(name, validation={3: 3.0 - rho}, **log))
        return judge_run(record, fp32, frozen)

    return make
