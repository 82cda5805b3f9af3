"""Ranks in the loop: of which weights, when, what warns, and what a resume remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.weights.rank import measure_rank
from altgrad_cli.training import after_step
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Alert, CheckpointSaved, Event, StepCompleted, event_to_json
from altgrad_cli.training.measuring import updates
from altgrad_cli.training.state import TrainState

Tiny = Callable[..., TrainConfig]
RANKS = ("stable_rank", "effective_rank", "variance_rank", "spectral_norm")
QUICK = ("use_shadow=false", "diagnostic_interval=1", "runtime.evaluation_interval=100")


def steps_of(events: list[Event]) -> list[StepCompleted]:
    return [event for event in events if isinstance(event, StepCompleted)]


def comparable(event: Event) -> dict[str, object]:
    line = event_to_json(event)
    metrics = line.get("metrics", {})
    metrics.pop("tokens_per_second", None)
    return {key: value for key, value in line.items() if key != "environment"}


@pytest.mark.parametrize("regime", ["uniform", "standard", "fp32"])
def test_ranks_are_those_of_the_stored_weights_before_the_step(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, regime: str
) -> None:
    """Of every layer, the tied head included; the run's value is the mean over the others."""
    stored: list[list[np.ndarray]] = []
    real = after_step.commit_step

    def spy(state: TrainState, *args):  # type: ignore[no-untyped-def]
        stored.append([layer.weight.detach().double().numpy().copy() for _, layer in state.layers])
        return real(state, *args)

    monkeypatch.setattr(after_step, "commit_step", spy)
    config = tiny("fp8_format=E4M3", f"precision.regime={regime}", "max_steps=3", *QUICK)
    for event, weights in zip(steps_of(list(train(config))), stored, strict=True):
        values = [np.linalg.svd(weight, compute_uv=False) for weight in weights]
        stable = [float((v**2).sum() / v[0] ** 2) for v in values]
        assert event.layers["stable_rank"] == pytest.approx(stable, rel=1e-10)
        assert event.metrics["stable_rank"] == pytest.approx(sum(stable[:-1]) / len(stable[:-1]))
        assert event.layers["spectral_norm"] == pytest.approx([v[0] for v in values], rel=1e-10)
        assert event.metrics["spectral_norm"] == pytest.approx(max(v[0] for v in values[:-1]))


def test_the_switch_takes_the_ranks_away_and_changes_nothing_else(tiny: Tiny) -> None:
    base = ("fp8_format=E3M4", "precision.rounding=stochastic_all", "model.dropout=0.1", *QUICK)
    on, off = (steps_of(list(train(tiny(*base, f"log_rank={flag}")))) for flag in ("true", "false"))
    fall = "effective_rank_fall"
    for with_ranks, without in zip(on, off, strict=True):
        extra = {*RANKS, *([fall] if with_ranks.step >= 5 else [])}
        assert set(with_ranks.metrics) - set(without.metrics) == extra
        assert set(with_ranks.layers) - set(without.layers) == extra
        for mapping, other in ((with_ranks.metrics, without.metrics), (with_ranks.layers, without.layers)):
            for key in other.keys() - {"tokens_per_second"}:
                assert mapping[key] == other[key], key


def planted(monkeypatch: pytest.MonkeyPatch, ranks: list[float]) -> None:
    """Let measurement k of every layer find the effective rank ``ranks[k]``."""
    calls: list[torch.Tensor] = []

    def measure(weight: torch.Tensor) -> dict[str, float | None]:
        calls.append(weight)
        return measure_rank(weight) | {"effective_rank": ranks[(len(calls) - 1) // 9]}

    monkeypatch.setattr(updates, "measure_rank", measure)


def alerts_of(events: list[Event]) -> list[Alert]:
    return [event for event in events if isinstance(event, Alert) and event.name == "falling_rank"]


def test_a_planted_fall_warns_in_the_layers_that_no_normalisation_feeds(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """45 % over the window: above the stricter level, below the other; then it stays, and they recover."""
    ranks = [100 * 0.55 ** (min(k, 5) / 4) for k in range(12)]
    planted(monkeypatch, ranks)
    events = list(train(tiny("fp8_format=E3M4", "max_steps=12", *QUICK)))
    found = alerts_of(events)
    raised = [alert for alert in found if alert.state == "raised"]
    names = {f"blocks.{block}.{part}.c_proj" for block in (0, 1) for part in ("attn", "mlp")} | {"lm_head"}
    assert {alert.layer for alert in raised} == names
    assert {(alert.step, alert.metric, alert.threshold) for alert in raised} == {
        (5, "effective_rank_fall", 0.4)
    }
    assert all(alert.value == pytest.approx(0.45) for alert in raised)
    assert {alert.layer for alert in found if alert.state == "cleared"} == names
    shares = [event.metrics.get("effective_rank_fall") for event in steps_of(events)]
    slopes = [np.polyfit(range(5), np.log(ranks[k - 4 : k + 1]), 1)[0] for k in range(4, 12)]
    assert shares == [None] * 4 + [pytest.approx(1 - math.exp(4 * slope), abs=1e-12) for slope in slopes]


def test_a_healthy_run_does_not_warn(tiny: Tiny) -> None:
    assert not alerts_of(list(train(tiny("precision.regime=fp32", "max_steps=12", *QUICK))))


@pytest.mark.parametrize("stop", [3, 7], ids=["within the window", "while the alert is up"])
def test_a_resume_goes_on_with_the_window_and_the_alerts(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    ranks = [100 * 0.5 ** (min(k, 6) / 4) for k in range(14)]
    config = tiny("fp8_format=E3M4", "max_steps=14", *QUICK)
    planted(monkeypatch, ranks)
    straight = list(train(config))
    assert {alert.step <= stop for alert in alerts_of(straight) if alert.state == "raised"} == {stop > 5}
    assert {alert.state for alert in alerts_of(straight) if alert.step > stop} >= {"cleared"}
    planted(monkeypatch, ranks)
    asked = iter(range(1, 14))
    begun = list(train(config, run_dir=tmp_path, stop_requested=lambda: next(asked) == stop))
    saved = begun[-1]
    assert isinstance(saved, CheckpointSaved) and saved.step == stop and saved.path
    planted(monkeypatch, ranks[stop:])
    resumed = list(train(config, resume_from=VerifiedCheckpoint.read(tmp_path / saved.path)))

    def measured(events: list[Event]) -> list[dict[str, object]]:
        return [comparable(event) for event in events if isinstance(event, StepCompleted | Alert)]

    assert measured(begun) + measured(resumed) == measured(straight)
